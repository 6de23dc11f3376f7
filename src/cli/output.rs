//! Printing: data to stdout, everything else to stderr.

use std::fmt::{Arguments, Display};
use std::io::Write;

/// One line of data.
pub(crate) fn line(text: impl Display) {
    // A reader that hung up (`| head`) has what it wants.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// An error with its causes, and its hints on lines of their own.
pub(crate) fn error(error: &anyhow::Error) {
    let text = crate::util::errors::chain(error.as_ref());
    let _ = writeln!(std::io::stderr(), "error: {text}");
}

/// What to do next.
pub(crate) fn hint(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "hint: {text}");
}

/// Rows in columns as wide as their widest cell, three blanks between, as kubectl prints them.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut printed = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            printed.push_str(&format!("{cell:<width$}   "));
        }
        text.push_str(printed.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let text = table(&[row(&["NAME", "AGE"]), row(&["master", "1m"])]);
        assert_eq!(text, "NAME     AGE\nmaster   1m\n");
    }
}
