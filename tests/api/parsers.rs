//! The fuzz targets for a moment: every input that is kept, and mutations of them by a seed.
//! `ORCH_FUZZ_ROUNDS` makes the moment longer.

use std::path::Path;

#[path = "../../fuzz/targets.rs"]
mod targets;

/// Mutations of each kept input.
const ROUNDS: usize = 25;
/// What is put in where chance says so: what parsers treat specially.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ":",
    ",",
    "null",
    "-",
    "0",
    "9223372036854775808",
    "1e999",
    "\u{0}",
    "$patch",
    "$setElementOrder/",
    "metadata",
    "/",
    "~1",
    "%",
    "in (",
    ")",
    "!=",
    "Ei",
    "&a ",
    "*a",
    "---\n",
    "\n  ",
    "\u{feff}",
    "é",
];

#[test]
fn no_kept_or_mutated_input_panics() {
    let rounds = std::env::var("ORCH_FUZZ_ROUNDS").ok();
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, _) in targets::TARGETS {
        let mut kept: Vec<_> = std::fs::read_dir(corpus.join(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        kept.sort();
        assert!(!kept.is_empty(), "no corpus for {name}");
        let mut random = fastrand::Rng::with_seed(1);
        for file in kept {
            let input = std::fs::read(&file).unwrap();
            targets::run(name, &input);
            for _ in 0..rounds {
                let mutated = mutate(&input, &mut random);
                let run = std::panic::catch_unwind(|| targets::run(name, &mutated));
                assert!(
                    run.is_ok(),
                    "{name}: {:?}",
                    String::from_utf8_lossy(&mutated)
                );
            }
        }
    }
}

fn mutate(input: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(..8)).min(bytes.len());
        match random.u8(..5) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, PIECES[random.usize(..PIECES.len())].bytes())),
            2 if at < bytes.len() => bytes[at] = random.u8(..),
            3 => {
                let copied = bytes[at..end].to_vec();
                bytes.splice(at..at, copied);
            }
            _ => bytes.truncate(bytes.len().min(at.max(1))),
        }
    }
    bytes
}
