//! Amounts as people type them: `15000`, `15,000원`, `KRW 15000`.

use pumasi_protocol::types::{Amount, Unit};

use crate::error::{Error, Result};
use crate::view::Money;

/// The unit where none is said.
pub(crate) const DEFAULT_UNIT: &str = "KRW";

/// Reads an amount with or without its unit; `unit` is what a flag said.
///
/// # Errors
/// When it is not a whole number, its commas do not separate thousands, or text and flag name
/// different units.
pub(crate) fn parse(text: &str, unit: Option<&str>) -> Result<Money> {
    let wrong = |why: &str| Err(Error::invalid(format!("`{text}` is not an amount: {why}")));
    let trimmed = text.trim();
    let (number, said) = if let Some(number) = trimmed.strip_suffix('원') {
        (number, Some("KRW"))
    } else if let Some(number) = trimmed.strip_prefix('₩') {
        (number, Some("KRW"))
    } else if let Some((first, second)) = trimmed.split_once(char::is_whitespace) {
        if first.starts_with(|c: char| c.is_ascii_digit()) {
            (first, Some(second.trim()))
        } else {
            (second, Some(first))
        }
    } else {
        (trimmed, None)
    };
    let number = number.trim();
    if number.starts_with(['-', '+']) {
        return wrong("write it without a sign");
    }
    if number.contains('.') {
        return wrong("write whole numbers of the smallest part (won, cents), without a point");
    }
    if number.is_empty()
        || !number
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b',')
    {
        return wrong("write it such as 15000, 15,000원 or \"KRW 15000\"");
    }
    let groups: Vec<&str> = number.split(',').collect();
    let (first, rest) = groups.split_first().unwrap_or((&"", &[]));
    let grouped = rest.is_empty()
        || ((1..=3).contains(&first.len()) && rest.iter().all(|group| group.len() == 3));
    if !grouped {
        return wrong("commas must separate thousands, as in 15,000");
    }
    let Ok(amount) = number.parse::<Amount>() else {
        return wrong("it is too large");
    };
    let unit = match (said, unit) {
        (Some(said), Some(unit)) if said != unit => {
            return Err(Error::invalid(format!(
                "`{text}` says {said} and --unit says {unit}: name one unit"
            )));
        }
        (Some(unit), _) | (None, Some(unit)) => unit,
        (None, None) => DEFAULT_UNIT,
    };
    let unit: Unit = unit
        .parse()
        .map_err(|error| Error::invalid(format!("{error}")))?;
    Ok(Money {
        amount: amount.to_string(),
        currency: unit.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        for text in [
            "15000",
            "15,000",
            "15,000원",
            "15000 원",
            "KRW 15000",
            "15,000 KRW",
            "₩15,000",
            " 15000 ",
        ] {
            let money = parse(text, None).unwrap();
            assert_eq!(
                (money.amount.as_str(), money.currency.as_str()),
                ("15000", "KRW"),
                "{text}"
            );
        }
        assert_eq!(parse("5", Some("USD")).unwrap().currency, "USD");
        assert_eq!(parse("USD 5", Some("USD")).unwrap().currency, "USD");
        assert_eq!(parse("1,234,567", None).unwrap().amount, "1234567");
    }

    #[test]
    fn what_is_not_clear_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "write it such as"),
            ("won", "write it such as"),
            ("-5", "without a sign"),
            ("1.50", "without a point"),
            ("15,00", "separate thousands"),
            ("1500,000", "separate thousands"),
            (",000", "separate thousands"),
            ("18446744073709551616", "too large"),
            ("5 krw", "not a unit"),
            ("1e3", "write it such as"),
        ] {
            let error = parse(text, None).unwrap_err();
            assert!(error.message().contains(why), "{text}: {error}");
        }
        assert!(
            parse("5원", Some("USD"))
                .unwrap_err()
                .message()
                .contains("name one unit")
        );
    }
}
