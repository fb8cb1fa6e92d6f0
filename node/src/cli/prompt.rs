//! Questions to a person at a terminal. Nothing here is asked when stdin or stderr is not one.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::error::{Error, ErrorKind, Result};

/// Whether there is a person to ask.
pub(crate) fn possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks and reads one line, without white space around it.
///
/// # Errors
/// When the input ends.
pub(crate) fn ask(question: &str) -> Result<String> {
    let ended = || Error::new(ErrorKind::Invalid, "the input ended before the answer");
    let mut err = io::stderr().lock();
    let _ = write!(err, "{question} ");
    let _ = err.flush();
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line) {
        Ok(0) | Err(_) => Err(ended()),
        Ok(_) => Ok(line.trim().to_owned()),
    }
}

/// Asks yes or no; anything but y or yes (or 네) is no.
///
/// # Errors
/// When the input ends.
pub(crate) fn confirm(question: &str) -> Result<bool> {
    let answer = ask(&format!("{question} [y/N]"))?;
    Ok(matches!(
        answer.to_lowercase().as_str(),
        "y" | "yes" | "네" | "예"
    ))
}

/// Asks for a new passphrase twice, without showing it.
///
/// # Errors
/// When it is empty, the two differ, or the input ends.
pub(crate) fn new_passphrase() -> Result<String> {
    let read = |question: &str| {
        rpassword::prompt_password(question).map_err(|error| {
            Error::new(
                ErrorKind::Internal,
                format!("the passphrase cannot be read: {error}"),
            )
        })
    };
    let first = read("New passphrase: ")?;
    if first.is_empty() {
        return Err(Error::invalid("the passphrase is empty"));
    }
    if first != read("The same again: ")? {
        return Err(Error::invalid("the two passphrases differ: begin again"));
    }
    Ok(first)
}
