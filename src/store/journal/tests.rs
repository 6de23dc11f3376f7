//! What comes back from a journal after each way of ending.

use super::simulated::{Fault, Simulated};
use super::*;
use crate::util::rng::Rng;

const IDENTITY: u64 = 42;
/// Small, so that a few frames fill one.
const ROOM: u64 = 512;

/// The payloads of everything newer than `after`, and the journal opened for more.
fn reopen(disk: &Simulated, after: u64) -> Result<(Vec<u64>, Journal)> {
    let mut payloads = Vec::new();
    let found = read(
        Arc::new(disk.clone()),
        IDENTITY,
        Revision(after),
        &mut |bytes| {
            payloads.push(bytes.len() as u64);
            Ok(())
        },
    )?;
    Ok((payloads, found.open(ROOM, Revision(0))?))
}

/// Appends a frame whose payload is as long as its revision says.
fn append(journal: &mut Journal, revision: u64, durability: Durability) -> Result<()> {
    let payload = vec![7; revision as usize];
    journal.append(Revision(revision), &payload, durability)
}

fn write(disk: &Simulated, revisions: std::ops::RangeInclusive<u64>) -> Journal {
    let (_, mut journal) = reopen(disk, 0).unwrap();
    for revision in revisions {
        append(&mut journal, revision, Durability::Synced).unwrap();
    }
    journal
}

#[test]
fn what_was_appended_is_read_again_over_several_segments() {
    let disk = Simulated::default();
    write(&disk, 1..=30);
    write(&disk, 31..=40);
    assert!(disk.names().len() > 3);
    let (payloads, journal) = reopen(&disk, 0).unwrap();
    assert_eq!(payloads, (1..=40).collect::<Vec<_>>());
    assert_eq!(journal.newest(), Revision(40));
    let (newer, _) = reopen(&disk, 25).unwrap();
    assert!(newer.ends_with(&(26..=40).collect::<Vec<_>>()));
}

#[test]
fn a_frame_larger_than_a_segment_gets_one_of_its_own() {
    let disk = Simulated::default();
    write(&disk, 2000..=2003);
    assert_eq!(reopen(&disk, 0).unwrap().0, [2000, 2001, 2002, 2003]);
}

#[test]
fn forgotten_segments_are_gone_and_the_rest_is_read() {
    let disk = Simulated::default();
    let mut journal = write(&disk, 1..=40);
    let all = journal.bytes_after(Revision(0));
    let names = journal.forget(Revision(20));
    assert!(!names.is_empty() && journal.bytes_after(Revision(0)) < all);
    remove(&disk, &names).unwrap();
    let found = read(Arc::new(disk.clone()), IDENTITY, Revision(20), &mut |_| {
        Ok(())
    })
    .unwrap();
    let back = found.reaches_back_to();
    assert!(back > Revision(10) && back <= Revision(20), "{back:?}");
    assert!(
        reopen(&disk, 20)
            .unwrap()
            .0
            .ends_with(&(21..=40).collect::<Vec<_>>())
    );
}

#[test]
fn after_a_power_cut_everything_synced_is_there_and_nothing_is_torn() {
    for seed in 0..300 {
        let rng = Rng::seeded(seed);
        let disk = Simulated::default();
        let (mut written, mut synced) = (0, 0);
        for _ in 0..4 {
            let (payloads, mut journal) = reopen(&disk, 0).unwrap();
            let last = payloads.last().copied().unwrap_or(0);
            assert_eq!(payloads, (1..=last).collect::<Vec<_>>(), "seed {seed}");
            assert!(synced <= last && last <= written, "seed {seed}");
            written = last;
            synced = last;
            for _ in 0..rng.below(12) {
                let durability = match rng.below(3) {
                    0 => Durability::Synced,
                    _ => Durability::Relaxed,
                };
                written += 1;
                append(&mut journal, written, durability).unwrap();
                if durability == Durability::Synced {
                    synced = written;
                }
            }
            disk.cut_power(&rng);
        }
    }
}

#[test]
fn stopped_after_any_step_everything_acknowledged_is_there() {
    for stop in 0..90 {
        let disk = Simulated::default();
        disk.fault(Some(Fault::Stop(stop)));
        let mut acknowledged = 0;
        if let Ok((_, mut journal)) = reopen(&disk, 0) {
            while acknowledged < 30
                && append(&mut journal, acknowledged + 1, Durability::Synced).is_ok()
            {
                acknowledged += 1;
            }
        }
        for power_cut in [false, true] {
            let disk = disk.copy();
            match power_cut {
                true => disk.cut_power(&Rng::seeded(stop)),
                false => disk.end_process(),
            }
            let (payloads, _) = reopen(&disk, 0).unwrap();
            let last = payloads.last().copied().unwrap_or(0);
            assert!(
                last == acknowledged || last == acknowledged + 1,
                "stop {stop}"
            );
            assert_eq!(payloads, (1..=last).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_full_disk_fails_the_append_and_later_ones_succeed_again() {
    let disk = Simulated::default();
    let mut journal = write(&disk, 1..=3);
    append(&mut journal, 4, Durability::Relaxed).unwrap();
    disk.fault(Some(Fault::Full));
    for _ in 0..3 {
        let failed = append(&mut journal, 300, Durability::Synced);
        assert!(matches!(failed, Err(Error::Unavailable { .. })));
        assert!(append(&mut journal, 5, Durability::Synced).is_err());
    }
    disk.fault(None);
    append(&mut journal, 5, Durability::Relaxed).unwrap();
    append(&mut journal, 300, Durability::Synced).unwrap();
    append(&mut journal, 301, Durability::Synced).unwrap();
    let expected = [1, 2, 3, 4, 5, 300, 301];
    assert_eq!(reopen(&disk, 0).unwrap().0, expected);
    disk.cut_power(&Rng::seeded(1));
    assert_eq!(reopen(&disk, 0).unwrap().0, expected);
}

#[test]
fn a_cut_at_any_byte_of_the_last_segment_leaves_whole_frames() {
    let disk = Simulated::default();
    write(&disk, 1..=9);
    let last = disk.names().pop().unwrap();
    let full = disk.content()[&last].len();
    for cut in HEADER_BYTES..full {
        let disk = disk.copy();
        disk.change(&last, |bytes| bytes.truncate(cut));
        let (payloads, mut journal) = reopen(&disk, 0).unwrap();
        let kept = payloads.len() as u64;
        assert_eq!(payloads, (1..=kept).collect::<Vec<_>>());
        append(&mut journal, kept + 1, Durability::Synced).unwrap();
        assert_eq!(reopen(&disk, 0).unwrap().0.len() as u64, kept + 1);
    }
}

#[test]
fn damage_is_told_and_nothing_is_changed() {
    let disk = Simulated::default();
    write(&disk, 1..=20);
    let names = disk.names();
    for (at, name) in names.iter().enumerate() {
        let end = match names.get(at + 1) {
            Some(next) => Header::decode(&disk.content()[next]).unwrap().previous_end as usize,
            // The last frame looks torn when it is damaged.
            None => HEADER_BYTES + 8,
        };
        for byte in (0..end).step_by(5) {
            let disk = disk.copy();
            disk.change(name, |bytes| bytes[byte] ^= 0x40);
            let before = disk.content();
            match reopen(&disk, 0) {
                Err(Error::Corrupt { path, .. }) => assert!(path.contains(name.as_str())),
                other => panic!("{name} byte {byte}: {:?}", other.map(|(found, _)| found)),
            }
            assert!(
                disk.content() == before,
                "{name} byte {byte}: disk was changed"
            );
        }
    }
}

#[test]
fn a_missing_or_foreign_segment_is_told() {
    let disk = Simulated::default();
    write(&disk, 1..=30);
    let middle = disk.names()[1].clone();
    let copy = disk.copy();
    copy.remove(&middle).unwrap();
    assert!(matches!(reopen(&copy, 0), Err(Error::Corrupt { path, .. }) if path.contains(&middle)));
    let other = read(Arc::new(disk), IDENTITY + 1, Revision(0), &mut |_| Ok(()));
    assert!(matches!(other.err(), Some(Error::Corrupt { .. })));
}

#[test]
fn a_real_folder_keeps_what_was_appended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let open = || {
        let mut lens = Vec::new();
        let disk = Arc::new(disk::Folder::new(path.clone()));
        let found = read(disk, IDENTITY, Revision(0), &mut |bytes| {
            lens.push(bytes.len());
            Ok(())
        });
        (found.unwrap().open(4096, Revision(0)).unwrap(), lens)
    };
    let mut journal = open().0;
    for revision in 1..=100 {
        append(&mut journal, revision, Durability::Relaxed).unwrap();
    }
    journal.sync().unwrap();
    let (mut journal, lens) = open();
    assert_eq!(lens, (1..=100).collect::<Vec<_>>());
    let names = journal.forget(Revision(50));
    remove(&disk::Folder::new(path.clone()), &names).unwrap();
    append(&mut journal, 101, Durability::Synced).unwrap();
    assert_eq!(open().1.last(), Some(&101));
}
