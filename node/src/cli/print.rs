//! How results look: tables that keep their columns with Korean names, money with thousands, times,
//! and text of other people made harmless for a terminal.

use std::io::{self, IsTerminal, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::view::Money;

/// Form of results on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON document per line and item.
    Jsonl,
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    /// The form asked for.
    pub(crate) form: Form,
}

impl Out {
    /// Whether results are JSON.
    pub(crate) fn is_json(self) -> bool {
        self.form != Form::Table
    }

    /// One result: JSON as it came, or the text for people.
    pub(crate) fn one<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        match self.form {
            Form::Table => line(&text(value)),
            Form::Json => line(&pretty(value)?),
            Form::Jsonl => line(&compact(value)?),
        }
    }

    /// A list: a JSON array or lines, or the text for people.
    pub(crate) fn list<T: Serialize>(
        self,
        items: &[T],
        text: impl FnOnce(&[T]) -> String,
    ) -> Result<()> {
        match self.form {
            Form::Table => line(&text(items)),
            Form::Json => line(&pretty(&items)?),
            Form::Jsonl => items.iter().try_for_each(|item| line(&compact(item)?)),
        }
    }
}

fn unwritable(error: &serde_json::Error) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("the result cannot be written as JSON: {error}"),
    )
}

fn pretty(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))
}

/// JSON on one line.
pub(crate) fn compact(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| unwritable(&error))
}

/// Writes a line to stdout. Where nobody reads any more (`| head`), the program ends in silence.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Error::new(
            ErrorKind::Internal,
            format!("stdout cannot be written: {error}"),
        )),
    }
}

/// Says something to the person, on stderr. Nobody listening is no failure.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Rows under headings, each column as wide as its widest cell.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], column: usize| row.get(column).map_or(0, |text| width(text));
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(column, heading)| {
            rows.iter()
                .map(|row| cell(row, column))
                .max()
                .unwrap_or_default()
                .max(width(heading))
        })
        .collect();
    let written = |cells: &[String]| {
        let mut text = String::new();
        for (cell, column) in cells.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(
                ' ',
                column.saturating_sub(width(cell)) + 2,
            ));
        }
        text.trim_end().to_owned()
    };
    let headings: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    let mut lines = vec![bold(&written(&headings))];
    lines.extend(rows.iter().map(|row| written(row)));
    lines.join("\n")
}

fn bold(text: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !io::stdout().is_terminal() {
        text.to_owned()
    } else {
        format!("\u{1b}[1m{text}\u{1b}[0m")
    }
}

/// Columns that a text takes in a terminal: Hangul syllables, CJK and emoji take two, marks that
/// combine none (Unicode UAX #11, the ranges that matter here).
pub(crate) fn width(text: &str) -> usize {
    text.chars()
        .map(|c| match u32::from(c) {
            0x0300..=0x036F | 0x1160..=0x11FF | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
            0x1100..=0x115F
            | 0x2E80..=0x303E
            | 0x3041..=0xA4CF
            | 0xA960..=0xA97F
            | 0xAC00..=0xD7A3
            | 0xF900..=0xFAFF
            | 0xFE30..=0xFE6F
            | 0xFF00..=0xFF60
            | 0xFFE0..=0xFFE6
            | 0x1F300..=0x1F64F
            | 0x1F680..=0x1F6FF
            | 0x1F900..=0x1F9FF
            | 0x20000..=0x3FFFD => 2,
            _ => 1,
        })
        .sum()
}

/// Text of others, harmless: control characters (which can move the cursor or rename the window) and
/// characters that turn the writing direction become visible marks. Line ends stay.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' => c,
            '\t' => ' ',
            '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{200E}' | '\u{200F}' => {
                '\u{FFFD}'
            }
            c if c.is_control() => '\u{FFFD}',
            c => c,
        })
        .collect()
}

/// The same on one line.
pub(crate) fn flat(text: &str) -> String {
    clean(text).replace('\n', " ⏎ ")
}

/// An id cut for reading, never for comparing: `pm1qqqqqqq…`.
pub(crate) fn short(id: &str) -> String {
    if id.chars().count() <= 14 {
        id.to_owned()
    } else {
        format!("{}…", id.chars().take(12).collect::<String>())
    }
}

/// Digits in groups of three; a sign stays in front.
pub(crate) fn grouped(digits: &str) -> String {
    let (sign, digits) = digits
        .strip_prefix('-')
        .map_or(("", digits), |rest| ("-", rest));
    let mut text = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An amount with its unit: `15,000 KRW`.
pub(crate) fn amount(digits: &str, unit: &str) -> String {
    format!("{} {}", grouped(digits), unit_name(unit))
}

/// Money for reading.
pub(crate) fn money(money: &Money) -> String {
    amount(&money.amount, &money.currency)
}

/// A unit for reading: that of an account with the id cut.
pub(crate) fn unit_name(unit: &str) -> String {
    match unit.split_once('@') {
        Some((name, account)) => format!("{name}@{}", short(account)),
        None => unit.to_owned(),
    }
}

/// A time for reading, in the machine's zone; in UTC with a `Z` where the zone is not known.
pub(crate) fn time(text: &str) -> String {
    let Ok(timestamp) = text.parse::<Timestamp>() else {
        return clean(text);
    };
    let zone = TimeZone::system();
    let format = if zone.is_unknown() {
        "%Y-%m-%d %H:%MZ"
    } else {
        "%Y-%m-%d %H:%M"
    };
    timestamp.to_zoned(zone).strftime(format).to_string()
}

/// `1 keeper`, `2 keepers`.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!(
        "{} {}",
        grouped(&number.to_string()),
        if number == 1 { one } else { many }
    )
}

/// A number of bytes, short.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes / 1024),
        10_485_760..10_737_418_240 => format!("{} MiB", bytes / 1024 / 1024),
        _ => format!("{} GiB", bytes / 1024 / 1024 / 1024),
    }
}

/// A length of time in two figures at most.
pub(crate) fn duration(seconds: u64) -> String {
    match (
        seconds / 86_400,
        seconds / 3_600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_korean_names() {
        let rows = vec![
            vec!["하나".to_owned(), "1".to_owned()],
            vec!["bora".to_owned(), "22".to_owned()],
            vec!["👍".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["NAME", "N"], &rows),
            "NAME  N\n하나  1\nbora  22\n👍"
        );
    }

    #[test]
    fn widths_are_those_of_a_terminal() {
        for (text, columns) in [
            ("abc", 3),
            ("하나", 4),
            ("\u{1112}\u{1161}", 2),
            ("é", 1),
            ("漢字", 4),
            ("", 0),
        ] {
            assert_eq!(width(text), columns, "{text}");
        }
    }

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        assert_eq!(
            clean("a\u{1b}[31mb\u{7f}\u{9b}c\r"),
            "a\u{fffd}[31mb\u{fffd}\u{fffd}c\u{fffd}"
        );
        assert_eq!(clean("\u{202e}x"), "\u{fffd}x");
        assert_eq!(flat("a\nb"), "a ⏎ b");
        assert_eq!(clean("안녕\n하나"), "안녕\n하나");
    }

    #[test]
    fn money_has_thousands() {
        assert_eq!(grouped("0"), "0");
        assert_eq!(grouped("-1234567"), "-1,234,567");
        assert_eq!(amount("15000", "KRW"), "15,000 KRW");
    }

    #[test]
    fn sizes_stay_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (10_239, "10239 B"),
            (10_240, "10 KiB"),
            (1 << 30, "1024 MiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn lengths_of_time_are_read_at_a_glance() {
        for (seconds, text) in [
            (5, "5 s"),
            (65, "1 min 5 s"),
            (7_260, "2 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
