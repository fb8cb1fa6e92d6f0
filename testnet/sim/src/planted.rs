//! Which planted bug is on, on this thread. The list itself is in `planted/list.rs`, which the build
//! script reads too.

use std::cell::Cell;

mod list;

pub(crate) use list::PLANTED;

thread_local! {
    static ON: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Whether a bug, by its place in the list, is on.
pub(crate) fn is_on(number: usize) -> bool {
    ON.get() == Some(number)
}

/// Turns one bug on for this thread, or all off.
pub(crate) fn turn_on(bug: Option<usize>) {
    ON.set(bug);
}

/// The place of a bug in the list.
pub(crate) fn find(name: &str) -> Option<usize> {
    PLANTED.iter().position(|bug| bug.name == name)
}
