//! A stand-in for the double ratchet: a keyed hash and counters. It hides nothing. It behaves like Olm
//! where the engine can see it: a one-time key serves once, a last-resort key always; a message opens
//! once; lost or older state cannot open what was sealed for the newer; 40 messages of a run may be
//! missing, five runs are remembered; a session begins with its keys in every message until an answer.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::protocol::codec::{self, Wire};
use crate::protocol::crypto;
use crate::ratchet_real::{MESSAGE_MAX, Opened, RatchetError, SESSIONS_MAX};

/// One-time keys that an account holds at most (vodozemac: 5,000; fewer are ever out here).
const ONE_TIME_MAX: usize = 5_000;
/// Missing messages of one run that may still come.
const SKIPPED_MAX: usize = 40;
/// Runs of the peer that are remembered.
const RUNS_MAX: usize = 5;
const PREKEY: u8 = 0;
const NORMAL: u8 = 1;

thread_local! {
    static RANDOM: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Seeds this thread's keys.
pub(super) fn seed(seed: u64) {
    RANDOM.set((seed, 0));
}

fn random() -> [u8; 32] {
    let (seed, count) = RANDOM.get();
    RANDOM.set((seed, count + 1));
    crypto::hash("sim-random", &[&seed.to_be_bytes(), &count.to_be_bytes()]).0
}

pub(super) fn store<T: Wire>(state: &T) -> Vec<u8> {
    codec::encode(state)
}

pub(super) fn load<T: Wire>(bytes: &[u8]) -> Result<T, RatchetError> {
    codec::decode(bytes).map_err(|error| RatchetError::Stored(error.to_string()))
}

/// A device's keys. Public and secret halves are the same bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    identity: [u8; 32],
    one_time: Vec<[u8; 32]>,
    fallback: Option<[u8; 32]>,
}

impl Wire for Account {
    const NAME: &'static str = "a stand-in account";
    const MAX: usize = 1024 * 1024;
}

impl Account {
    pub(super) fn new() -> Self {
        Self {
            identity: random(),
            one_time: vec![],
            fallback: None,
        }
    }

    pub(super) fn identity(&self) -> [u8; 32] {
        self.identity
    }

    pub(super) fn generate_one_time(&mut self, count: usize) -> Vec<[u8; 32]> {
        let made: Vec<_> = (0..count).map(|_| random()).collect();
        self.one_time.extend(&made);
        let over = self.one_time.len().saturating_sub(ONE_TIME_MAX);
        self.one_time.drain(..over);
        made
    }

    pub(super) fn fallback(&mut self) -> [u8; 32] {
        *self.fallback.get_or_insert_with(random)
    }
}

/// Who began a session, and with which keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Keys {
    identity: [u8; 32],
    ephemeral: [u8; 32],
    prekey: [u8; 32],
}

/// What of one run of the peer has come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Run {
    next: u32,
    skipped: BTreeSet<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Session {
    keys: Keys,
    /// Begun here.
    mine: bool,
    /// The peer has answered: keys are left out of messages.
    answered: bool,
    /// The run that is being sent, and the next number in it.
    run: u32,
    number: u32,
    /// Something came since this run began: the next message begins another.
    turn: bool,
    /// The latest run of the peer that had come when this run began.
    heard: u32,
    /// Runs of the peer.
    runs: BTreeMap<u32, Run>,
}

/// A message.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Message {
    kind: u8,
    keys: Option<Keys>,
    /// Which session, and which of its two directions.
    session: [u8; 16],
    from_beginner: bool,
    run: u32,
    number: u32,
    heard: u32,
    hidden: [u8; 32],
    tag: [u8; 16],
}

impl Wire for Message {
    const NAME: &'static str = "a stand-in message";
    const MAX: usize = MESSAGE_MAX;
}

impl Keys {
    fn session(&self) -> [u8; 16] {
        crypto::mac(
            &self.ephemeral,
            "sim-session",
            &[self.identity, self.prekey].concat(),
        )
    }

    fn pad(&self, from_beginner: bool, run: u32, number: u32) -> [u8; 32] {
        let place = [u32::from(from_beginner), run, number]
            .map(u32::to_be_bytes)
            .concat();
        crypto::hash("sim-pad", &[&self.ephemeral, &self.prekey, &place]).0
    }
}

fn xor(a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
    std::array::from_fn(|place| a[place] ^ b[place])
}

impl Session {
    fn new(keys: Keys, mine: bool) -> Self {
        Self {
            keys,
            mine,
            answered: !mine,
            run: 1,
            number: 0,
            turn: false,
            heard: 0,
            runs: BTreeMap::new(),
        }
    }

    fn encrypt(&mut self, content_key: [u8; 32]) -> Message {
        if self.turn {
            self.turn = false;
            self.run += 1;
            self.number = 0;
            self.heard = self.runs.keys().next_back().copied().unwrap_or(0);
        }
        let hidden = xor(content_key, self.keys.pad(self.mine, self.run, self.number));
        let keys = (!self.answered).then(|| self.keys.clone());
        let message = Message {
            kind: if keys.is_some() { PREKEY } else { NORMAL },
            keys,
            session: self.keys.session(),
            from_beginner: self.mine,
            run: self.run,
            number: self.number,
            heard: self.heard,
            hidden,
            tag: crypto::mac(&hidden, "sim-tag", &content_key),
        };
        self.number += 1;
        message
    }

    /// What a message carried; the session changes only when it opens.
    fn decrypt(&mut self, message: &Message) -> Result<[u8; 32], RatchetError> {
        let why = RatchetError::Undecryptable;
        // An answer to a run that this state has not sent yet: the state is older than the peer thinks.
        if message.from_beginner == self.mine || message.heard > self.run {
            return Err(why);
        }
        let oldest = self.runs.keys().next().copied().unwrap_or(0);
        if self.runs.len() >= RUNS_MAX && message.run < oldest {
            return Err(why);
        }
        let mut run = self.runs.get(&message.run).cloned().unwrap_or_default();
        if message.number < run.next {
            if !run.skipped.remove(&message.number) {
                return Err(why);
            }
        } else {
            run.skipped.extend(run.next..message.number);
            while run.skipped.len() > SKIPPED_MAX {
                run.skipped.pop_first();
            }
            run.next = message.number + 1;
        }
        let pad = self
            .keys
            .pad(message.from_beginner, message.run, message.number);
        let content_key = xor(message.hidden, pad);
        if crypto::mac(&message.hidden, "sim-tag", &content_key) != message.tag {
            return Err(why);
        }
        let newest = self.runs.keys().next_back().copied().unwrap_or(0);
        if message.run > newest {
            self.turn = true;
        }
        self.runs.insert(message.run, run);
        while self.runs.len() > RUNS_MAX {
            self.runs.pop_first();
        }
        self.answered = true;
        Ok(content_key)
    }
}

/// The sessions with one peer device; the first is the one to send in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Sessions {
    identity: Option<[u8; 32]>,
    sessions: Vec<Session>,
}

impl Wire for Sessions {
    const NAME: &'static str = "stand-in sessions";
    const MAX: usize = 64 * 1024;
}

impl Sessions {
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn adopt(&mut self, other: Self) {
        if other.identity.is_none() {
            return;
        }
        if self.identity != other.identity {
            *self = other;
            return;
        }
        for session in other.sessions.into_iter().rev() {
            self.put_first(session);
        }
    }

    pub(super) fn start(
        &mut self,
        account: &Account,
        their_identity: [u8; 32],
        prekey: [u8; 32],
    ) -> Result<(), RatchetError> {
        self.check_identity(&their_identity)?;
        self.identity = Some(their_identity);
        let keys = Keys {
            identity: account.identity,
            ephemeral: random(),
            prekey,
        };
        self.put_first(Session::new(keys, true));
        Ok(())
    }

    pub(super) fn encrypt(&mut self, content_key: &[u8; 32]) -> Result<Vec<u8>, RatchetError> {
        let session = self.sessions.first_mut().ok_or(RatchetError::NoSession)?;
        Ok(codec::encode(&session.encrypt(*content_key)))
    }

    pub(super) fn decrypt(
        &mut self,
        account: &mut Account,
        their_identity: &[u8; 32],
        message: &[u8],
    ) -> Result<Opened, RatchetError> {
        self.check_identity(their_identity)?;
        let message: Message = codec::decode(message).map_err(|_| RatchetError::Malformed)?;
        let known = self
            .sessions
            .iter()
            .position(|session| session.keys.session() == message.session);
        if let Some(place) = known {
            let mut session = self.sessions.remove(place);
            let opened = session.decrypt(&message);
            if opened.is_err() {
                self.sessions.insert(place, session);
            } else {
                self.put_first(session);
            }
            return opened.map(|content_key| Opened {
                content_key,
                new_session: false,
            });
        }
        let keys = message.keys.clone().ok_or(RatchetError::Undecryptable)?;
        if keys.identity != *their_identity {
            return Err(RatchetError::OtherIdentity);
        }
        let one_time = account.one_time.iter().position(|key| *key == keys.prekey);
        if one_time.is_none() && account.fallback != Some(keys.prekey) {
            return Err(RatchetError::UnknownPrekey);
        }
        let mut session = Session::new(keys, false);
        let content_key = session.decrypt(&message)?;
        if let Some(place) = one_time {
            account.one_time.remove(place);
        }
        self.identity = Some(*their_identity);
        self.put_first(session);
        Ok(Opened {
            content_key,
            new_session: true,
        })
    }

    fn check_identity(&self, theirs: &[u8; 32]) -> Result<(), RatchetError> {
        match &self.identity {
            Some(known) if known != theirs => Err(RatchetError::OtherIdentity),
            _ => Ok(()),
        }
    }

    fn put_first(&mut self, session: Session) {
        self.sessions.insert(0, session);
        self.sessions.truncate(SESSIONS_MAX);
    }
}

/// The identity key inside a message that begins a session.
pub(super) fn sender_identity(message: &[u8]) -> Option<[u8; 32]> {
    let message: Message = codec::decode(message).ok()?;
    Some(message.keys?.identity)
}
