//! The engine's ratchet, chosen per seed: the real one (vodozemac), or a cheap deterministic stand-in
//! with the same observable behaviour. The same interface as `node/src/ratchet.rs`.

mod standin;

use std::cell::Cell;

use zeroize::Zeroizing;

pub(crate) use crate::ratchet_real::{Opened, RatchetError};

use crate::ratchet_real as real;

thread_local! {
    static REAL: Cell<bool> = const { Cell::new(false) };
}

/// Chooses the ratchet of this thread's run, and seeds the stand-in.
pub(crate) fn choose(real: bool, seed: u64) {
    REAL.set(real);
    standin::seed(seed);
}

/// A device's side of all its sessions.
#[derive(Debug)]
pub(crate) enum RatchetAccount {
    /// vodozemac.
    Real(Box<real::RatchetAccount>),
    /// Not cryptography at all.
    StandIn(standin::Account),
}

impl RatchetAccount {
    pub(crate) fn new() -> Self {
        if REAL.get() {
            Self::Real(Box::default())
        } else {
            Self::StandIn(standin::Account::new())
        }
    }

    pub(crate) fn identity(&self) -> [u8; 32] {
        match self {
            Self::Real(account) => account.identity(),
            Self::StandIn(account) => account.identity(),
        }
    }

    pub(crate) fn generate_one_time(&mut self, count: usize) -> Vec<[u8; 32]> {
        match self {
            Self::Real(account) => account.generate_one_time(count),
            Self::StandIn(account) => account.generate_one_time(count.min(real::ONE_TIME_BATCH)),
        }
    }

    pub(crate) fn fallback(&mut self) -> [u8; 32] {
        match self {
            Self::Real(account) => account.fallback(),
            Self::StandIn(account) => account.fallback(),
        }
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Real(account) => account.to_bytes(),
            Self::StandIn(account) => Zeroizing::new(standin::store(account)),
        }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, RatchetError> {
        if REAL.get() {
            let account = real::RatchetAccount::from_bytes(bytes)?;
            Ok(Self::Real(Box::new(account)))
        } else {
            Ok(Self::StandIn(standin::load(bytes)?))
        }
    }
}

/// The identity key inside a message that begins a session.
pub(crate) fn sender_identity(message: &[u8]) -> Option<[u8; 32]> {
    if REAL.get() {
        real::sender_identity(message)
    } else {
        standin::sender_identity(message)
    }
}

/// The sessions with one peer device.
#[derive(Debug)]
pub(crate) enum PeerSessions {
    /// vodozemac.
    Real(real::PeerSessions),
    /// Not cryptography at all.
    StandIn(standin::Sessions),
}

impl Default for PeerSessions {
    fn default() -> Self {
        Self::empty()
    }
}

impl PeerSessions {
    pub(crate) fn empty() -> Self {
        if REAL.get() {
            Self::Real(real::PeerSessions::empty())
        } else {
            Self::StandIn(standin::Sessions::default())
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Real(sessions) => sessions.is_empty(),
            Self::StandIn(sessions) => sessions.is_empty(),
        }
    }

    pub(crate) fn adopt(&mut self, other: Self) {
        match (self, other) {
            (Self::Real(sessions), Self::Real(other)) => sessions.adopt(other),
            (Self::StandIn(sessions), Self::StandIn(other)) => sessions.adopt(other),
            // One run has one kind.
            _ => {}
        }
    }

    pub(crate) fn start(
        &mut self,
        account: &RatchetAccount,
        their_identity: [u8; 32],
        prekey: [u8; 32],
    ) -> Result<(), RatchetError> {
        match (self, account) {
            (Self::Real(sessions), RatchetAccount::Real(account)) => {
                sessions.start(account, their_identity, prekey)
            }
            (Self::StandIn(sessions), RatchetAccount::StandIn(account)) => {
                sessions.start(account, their_identity, prekey)
            }
            _ => Err(RatchetError::Malformed),
        }
    }

    pub(crate) fn encrypt(&mut self, content_key: &[u8; 32]) -> Result<Vec<u8>, RatchetError> {
        match self {
            Self::Real(sessions) => sessions.encrypt(content_key),
            Self::StandIn(sessions) => sessions.encrypt(content_key),
        }
    }

    pub(crate) fn decrypt(
        &mut self,
        account: &mut RatchetAccount,
        their_identity: &[u8; 32],
        message: &[u8],
    ) -> Result<Opened, RatchetError> {
        match (self, account) {
            (Self::Real(sessions), RatchetAccount::Real(account)) => {
                sessions.decrypt(account, their_identity, message)
            }
            (Self::StandIn(sessions), RatchetAccount::StandIn(account)) => {
                sessions.decrypt(account, their_identity, message)
            }
            _ => Err(RatchetError::Malformed),
        }
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Real(sessions) => sessions.to_bytes(),
            Self::StandIn(sessions) => Zeroizing::new(standin::store(sessions)),
        }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, RatchetError> {
        if REAL.get() {
            Ok(Self::Real(real::PeerSessions::from_bytes(bytes)?))
        } else {
            Ok(Self::StandIn(standin::load(bytes)?))
        }
    }
}
