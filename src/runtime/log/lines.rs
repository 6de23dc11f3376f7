//! The kubelet's log format: `2026-01-02T03:04:05.000000006Z stdout F text`.
//!
//! A line longer than 16 KiB is written in parts marked `P`, the last one `F`, as containerd's CRI
//! does it.

/// Longest part of a line.
pub(super) const LINE_BYTES_MAX: usize = 16 << 10;

/// Cuts one stream into lines.
pub(super) struct Lines {
    stream: &'static str,
    /// The beginning of a line whose end has not come.
    open: Vec<u8>,
}

impl Lines {
    pub(super) fn new(stream: &'static str) -> Self {
        Self {
            stream,
            open: Vec::new(),
        }
    }

    /// Takes what was read at `time` and appends the lines that are whole to `out`.
    pub(super) fn feed(&mut self, mut data: &[u8], time: &str, out: &mut Vec<u8>) {
        while !data.is_empty() {
            let room = LINE_BYTES_MAX - self.open.len();
            let window = &data[..data.len().min(room + 1)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.write(time, b" F ", &data[..end], out);
                    data = &data[end + 1..];
                }
                None if window.len() > room => {
                    self.write(time, b" P ", &data[..room], out);
                    data = &data[room..];
                }
                None => {
                    self.open.extend_from_slice(data);
                    return;
                }
            }
        }
    }

    /// The stream ended: an open line is written as it is.
    pub(super) fn finish(&mut self, time: &str, out: &mut Vec<u8>) {
        if !self.open.is_empty() {
            self.write(time, b" F ", &[], out);
        }
    }

    fn write(&mut self, time: &str, mark: &[u8], rest: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(time.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.as_bytes());
        out.extend_from_slice(mark);
        out.extend_from_slice(&self.open);
        out.extend_from_slice(rest);
        out.push(b'\n');
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(parts: &[&[u8]]) -> String {
        let mut lines = Lines::new("stdout");
        let mut out = Vec::new();
        for part in parts {
            lines.feed(part, "T", &mut out);
        }
        lines.finish("T", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_joined_over_reads_and_the_last_needs_no_end() {
        assert_eq!(
            fed(&[b"a", b"b\n\nc\nd"]),
            "T stdout F ab\nT stdout F \nT stdout F c\nT stdout F d\n"
        );
    }

    #[test]
    fn long_lines_are_cut_into_parts() {
        let long = vec![b'x'; LINE_BYTES_MAX + 2];
        let text = fed(&[&long[..5], &long[5..], b"\ny\n"]);
        let marks: Vec<_> = text
            .lines()
            .map(|l| (l.split(' ').nth(2).unwrap(), l.len()))
            .collect();
        assert_eq!(marks, [("P", 11 + LINE_BYTES_MAX), ("F", 13), ("F", 12)]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_one_part() {
        let mut line = vec![b'x'; LINE_BYTES_MAX];
        line.push(b'\n');
        let text = fed(&[&line]);
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with("T stdout F x"));
    }
}
