//! Text for people: columns that stay aligned with Korean names, figures, colours, and the two ways out.

use std::io::{IsTerminal as _, Write as _};

/// Writes a line to standard output. A reader that went away is no error of ours.
pub(crate) fn say(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Writes a line to standard error.
pub(crate) fn complain(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Whether standard output is a terminal that understands colours and cursor moves.
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Colours, or none: not on a terminal, or `NO_COLOR` is set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    pub(crate) fn for_stdout() -> Self {
        Self(is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with("31", text)
    }
}

/// Columns that a text takes on a terminal: Korean letters, their like and most emoji take two.
pub(crate) fn width(text: &str) -> usize {
    text.chars()
        .map(|c| match u32::from(c) {
            0x0300..=0x036F | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
            0x1100..=0x115F
            | 0x2E80..=0xA4CF
            | 0xAC00..=0xD7A3
            | 0xF900..=0xFAFF
            | 0xFE30..=0xFE6F
            | 0xFF00..=0xFF60
            | 0xFFE0..=0xFFE6
            | 0x1F300..=0x1FAFF
            | 0x20000..=0x3FFFD => 2,
            _ => 1,
        })
        .sum()
}

/// Spaces behind, up to a width.
pub(crate) fn left(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// Spaces before, up to a width.
pub(crate) fn right(text: &str, columns: usize) -> String {
    format!("{}{text}", " ".repeat(columns.saturating_sub(width(text))))
}

/// At most so many columns, with a sign that something is missing.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        if width(&short) + 3 > columns {
            break;
        }
        short.push(c);
    }
    short + "…"
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: i128) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if number < 0 {
        format!("-{grouped}")
    } else {
        grouped
    }
}

/// A bar of `columns`, filled to a share between 0 and 1.
pub(crate) fn bar(share: f64, columns: usize) -> String {
    let full = ((share.clamp(0.0, 1.0) * columns as f64).round() as usize).min(columns);
    format!("{}{}", "█".repeat(full), "░".repeat(columns - full))
}

/// Rows with a header, the first column to the left, all others to the right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(|cell| (*cell).to_owned()).collect()],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Indented lines; the header is dimmed.
    pub(crate) fn lines(&self, paint: Paint) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns)
            .map(|column| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|c| width(c))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut lines = Vec::new();
        for (place, row) in self.rows.iter().enumerate() {
            let mut line = String::from("  ");
            for (column, cell) in row.iter().enumerate() {
                if column == 0 {
                    line.push_str(&left(cell, widths[0]));
                } else {
                    line.push_str("  ");
                    line.push_str(&right(cell, widths[column]));
                }
            }
            let line = line.trim_end();
            lines.push(if place == 0 {
                paint.dim(line)
            } else {
                line.to_owned()
            });
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn korean_letters_take_two_columns() {
        assert_eq!(width("판교 pangyo"), 11);
        assert_eq!(left("판교", 6), "판교  ");
        assert_eq!(right("판교", 6), "  판교");
        assert_eq!(cut("판교 안양 부산", 8), "판교 안…");
        assert_eq!(cut("판교", 4), "판교");
    }

    #[test]
    fn columns_stay_aligned_whatever_the_letters() {
        let mut table = Table::new(&["", "sent", "safe"]);
        table.row(["판교".to_owned(), "1".to_owned(), "1,000".to_owned()]);
        table.row(["anyang".to_owned(), "20,000".to_owned(), "3".to_owned()]);
        let lines = table.lines(Paint(false));
        assert_eq!(lines[0], "            sent   safe");
        assert_eq!(lines[1], "  판교         1  1,000");
        assert_eq!(lines[2], "  anyang  20,000      3");
        assert!(
            lines
                .windows(2)
                .all(|pair| width(&pair[0]) == width(&pair[1]))
        );
    }

    #[test]
    fn figures_are_grouped_by_thousands() {
        let shown: Vec<_> = [0, 999, 1_000, -1_234_567].map(thousands).into();
        assert_eq!(shown, ["0", "999", "1,000", "-1,234,567"]);
    }

    #[test]
    fn a_bar_is_as_long_as_asked_at_any_share() {
        for share in [-1.0, 0.0, 0.3, 1.0, 7.0] {
            assert_eq!(bar(share, 10).chars().count(), 10);
        }
    }

    #[test]
    fn without_colours_there_is_not_one_escape() {
        assert_eq!(Paint(false).red("x"), "x");
        assert!(Paint(true).red("x").starts_with('\x1b'));
    }
}
