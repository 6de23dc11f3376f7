//! Sets of completion indexes as a Job's status writes them: `0-2,5,7-9`. Pure.

use std::collections::BTreeSet;

/// Completion indexes.
pub(super) type Indexes = BTreeSet<i32>;

/// Reads the text of a status. What is out of range or cannot be read is left out, as upstream
/// leaves it out: the status is the controller's own and a bad one must not stop a Job.
pub(super) fn parse(text: &str, completions: i32) -> Indexes {
    let mut found = Indexes::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else {
            continue;
        };
        if first >= 0 {
            found.extend(first..=last.min(completions - 1));
        }
    }
    found
}

/// The text of a status.
pub(super) fn format(indexes: &Indexes) -> String {
    let mut text = String::new();
    let mut all = indexes.iter().copied().peekable();
    while let Some(first) = all.next() {
        let mut last = first;
        while let Some(next) = all.next_if(|next| *next == last + 1) {
            last = next;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&first.to_string());
        if last > first {
            text.push(if last == first + 1 { ',' } else { '-' });
            text.push_str(&last.to_string());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_as_intervals_and_read_back() {
        for (text, indexes) in [
            ("", vec![]),
            ("0", vec![0]),
            ("0,1", vec![0, 1]),
            ("0-2,5,7,8", vec![0, 1, 2, 5, 7, 8]),
            ("3-9", (3..=9).collect()),
        ] {
            let set: Indexes = indexes.into_iter().collect();
            assert_eq!(format(&set), text);
            assert_eq!(parse(text, 10), set);
        }
    }

    #[test]
    fn rubbish_and_what_is_out_of_range_is_left_out() {
        assert_eq!(parse("x,1,-3,8-2000000000", 10), [1, 8, 9].into());
        assert_eq!(parse("5", 0), Indexes::new());
    }
}
