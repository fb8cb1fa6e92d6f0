//! The simulated disk of the node that is stepping on this thread: where the next commit crashes, and
//! what the engine's copy reports while it steps. The data itself is SQLite in memory.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;

use crate::engine::Effect;
use crate::error::Result;
use crate::protocol::types::EnvelopeId;
use crate::store;

thread_local! {
    static CRASH: Cell<bool> = const { Cell::new(false) };
    static SEALED: RefCell<Vec<(i64, EnvelopeId)>> = const { RefCell::new(Vec::new()) };
    static EARLY: RefCell<Vec<Effect>> = const { RefCell::new(Vec::new()) };
}

/// Copies made in this process: each has a name of its own.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The next commit on this thread never happens.
pub(crate) fn crash_before_commit(crash: bool) {
    CRASH.set(crash);
}

/// The commit of a step, through the door in the engine.
pub(crate) fn commit(db: &Connection) -> rusqlite::Result<()> {
    if CRASH.take() {
        return Err(rusqlite::Error::InvalidQuery);
    }
    db.prepare_cached("COMMIT")?.execute([]).map(|_| ())
}

/// A sending was sealed, through the door in the engine: its row and its envelope.
pub(crate) fn sealed(row: i64, envelope: EnvelopeId) {
    SEALED.with_borrow_mut(|list| list.push((row, envelope)));
}

/// What was sealed since the last call.
pub(crate) fn take_sealed() -> Vec<(i64, EnvelopeId)> {
    SEALED.take()
}

/// A planted bug lets effects out before the commit.
pub(crate) fn leave_early(effects: Vec<Effect>) {
    EARLY.with_borrow_mut(|list| list.extend(effects));
}

/// What left early.
pub(crate) fn take_early() -> Vec<Effect> {
    EARLY.take()
}

/// A copy of a database as it is committed now.
pub(crate) fn copy(db: &Connection) -> Result<Connection> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("file:/sim-{}-{number}?vfs=memdb", std::process::id());
    store::copy_in_memory(db, &name)
}
