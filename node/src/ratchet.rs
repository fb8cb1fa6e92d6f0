//! The double ratchet of one pair of devices (Olm, by vodozemac): an account with its prekeys, and the
//! sessions with one peer device. Each message carries one 32-byte content key. Storing, retrying and
//! deciding when to begin a new session is the engine's work; nothing here touches disk or network.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vodozemac::Curve25519PublicKey;
use vodozemac::olm::{
    Account, AccountPickle, OlmMessage, PreKeyMessage, Session, SessionConfig,
    SessionCreationError, SessionPickle,
};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Sessions kept with one peer device. More than one lives only while both begin at once, or after
/// one has lost its state; the one unused for longest gives way.
pub(crate) const SESSIONS_MAX: usize = 5;
/// One-time keys made per call at most. An account holds the latest 5,000 (vodozemac's bound).
pub(crate) const ONE_TIME_BATCH: usize = 100;
/// Longest ratchet message in bytes; those made here have 96 (201 until the first answer).
pub(crate) const MESSAGE_MAX: usize = 512;

/// First byte of stored state.
const FORMAT: u8 = 1;
/// First byte of a message that begins a session.
const TYPE_PREKEY: u8 = 0;
/// First byte of any other message.
const TYPE_NORMAL: u8 = 1;

/// Why a ratchet message cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RatchetError {
    /// There is no session to send in: begin one.
    #[error("there is no session with that device yet")]
    NoSession,
    /// Not a ratchet message.
    #[error("not a ratchet message")]
    Malformed,
    /// The identity key is not that of this peer device.
    #[error("the message comes from another device than it says")]
    OtherIdentity,
    /// A public key that gives everybody the same secret (small order, RFC 7748 section 6.1).
    #[error("the other device's key is not safe to use")]
    WeakKey,
    /// It begins a session with a prekey that is unknown here, or used up.
    #[error("the message uses a prekey that is unknown or used up")]
    UnknownPrekey,
    /// No session opens it: a session was lost, the message was read before, or it is forged.
    #[error("no session opens the message")]
    Undecryptable,
    /// It opened, but holds no content key.
    #[error("the message does not carry a content key")]
    NoContentKey,
    /// Stored state is damaged, or written by a newer program.
    #[error("stored ratchet state cannot be read: {0}")]
    Stored(String),
}

impl From<SessionCreationError> for RatchetError {
    fn from(error: SessionCreationError) -> Self {
        match error {
            SessionCreationError::MissingOneTimeKey(_) => Self::UnknownPrekey,
            SessionCreationError::MismatchedIdentityKey(..) => Self::OtherIdentity,
            SessionCreationError::MismatchedSessionConfig { .. } => Self::Malformed,
            SessionCreationError::Decryption(_) => Self::Undecryptable,
            SessionCreationError::NonContributoryKey => Self::WeakKey,
        }
    }
}

// JSON, because vodozemac's session state can be read back from self-describing formats only (one of
// its enums is internally tagged).
fn store<T: Serialize>(state: &T) -> Zeroizing<Vec<u8>> {
    // Room for what is usual, so that growing leaves few copies of secrets behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    bytes.push(FORMAT);
    #[expect(
        clippy::expect_used,
        reason = "pickles have text keys, and a Vec takes all bytes"
    )]
    serde_json::to_writer(&mut *bytes, state).expect("pickles are plain data");
    bytes
}

fn load<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RatchetError> {
    let stored = |why: &str| RatchetError::Stored(why.to_owned());
    let (format, rest) = bytes.split_first().ok_or_else(|| stored("it is empty"))?;
    if *format != FORMAT {
        return Err(stored("unknown format"));
    }
    // The error's text could quote a secret: only its place is told.
    serde_json::from_slice(rest)
        .map_err(|error| stored(&format!("damaged at byte {}", error.column())))
}

/// A device's side of all its sessions: its identity key and the secret halves of its prekeys.
/// Reading it back costs one curve multiplication per one-time key held: keep it in memory.
pub(crate) struct RatchetAccount {
    account: Account,
    fallback: Option<[u8; 32]>,
}

#[derive(Serialize, Deserialize)]
struct StoredAccount {
    account: AccountPickle,
    fallback: Option<[u8; 32]>,
}

impl fmt::Debug for RatchetAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RatchetAccount").finish_non_exhaustive()
    }
}

impl Default for RatchetAccount {
    fn default() -> Self {
        Self::new()
    }
}

impl RatchetAccount {
    /// A new account with random keys (from the operating system) and no prekeys.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            account: Account::new(),
            fallback: None,
        }
    }

    /// The Curve25519 identity key.
    #[must_use]
    pub(crate) fn identity(&self) -> [u8; 32] {
        self.account.curve25519_key().to_bytes()
    }

    /// Makes `count` one-time keys, at most [`ONE_TIME_BATCH`], and gives their public halves. They
    /// count as published: store the account before handing them out.
    pub(crate) fn generate_one_time(&mut self, count: usize) -> Vec<[u8; 32]> {
        let made = self
            .account
            .generate_one_time_keys(count.min(ONE_TIME_BATCH));
        self.account.mark_keys_as_published();
        made.created
            .iter()
            .map(Curve25519PublicKey::to_bytes)
            .collect()
    }

    /// The last-resort key, made at the first call. It is never used up.
    pub(crate) fn fallback(&mut self) -> [u8; 32] {
        if let Some(key) = self.fallback {
            return key;
        }
        self.account.generate_fallback_key();
        #[expect(clippy::expect_used, reason = "the key was made the line before")]
        let key = self
            .account
            .fallback_key()
            .into_values()
            .next()
            .expect("a fallback key");
        self.account.mark_keys_as_published();
        *self.fallback.insert(key.to_bytes())
    }

    /// The account with all its secrets, for storing it encrypted.
    #[must_use]
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        store(&StoredAccount {
            account: self.account.pickle(),
            fallback: self.fallback,
        })
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`RatchetError::Stored`] when the bytes are damaged or of a newer format.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, RatchetError> {
        let stored: StoredAccount = load(bytes)?;
        Ok(Self {
            account: Account::from_pickle(stored.account),
            fallback: stored.fallback,
        })
    }

    /// The session that a message begins, and what it carries. Takes the one-time key away only if
    /// all went well.
    fn inbound(
        &mut self,
        identity: Curve25519PublicKey,
        message: &PreKeyMessage,
    ) -> Result<(Session, [u8; 32]), RatchetError> {
        let before = self.account.pickle();
        let config = SessionConfig::version_1();
        let made = self
            .account
            .create_inbound_session(config, identity, message)?;
        match content_key(made.plaintext) {
            Ok(key) => Ok((made.session, key)),
            Err(error) => {
                self.account = Account::from_pickle(before);
                Err(error)
            }
        }
    }
}

fn content_key(mut plaintext: Vec<u8>) -> Result<[u8; 32], RatchetError> {
    let key = plaintext
        .as_slice()
        .try_into()
        .map_err(|_| RatchetError::NoContentKey);
    plaintext.zeroize();
    key
}

/// Decrypts on a copy: vodozemac renews its own ratchet key before it finds a message to be forged.
fn try_decrypt(
    session: &Session,
    message: &OlmMessage,
) -> Result<(Session, [u8; 32]), RatchetError> {
    let mut copy = Session::from_pickle(session.pickle());
    let plaintext = copy
        .decrypt(message)
        .map_err(|_| RatchetError::Undecryptable)?;
    Ok((copy, content_key(plaintext)?))
}

/// The identity key inside a message that begins a session; `None` for every other message.
#[must_use]
pub(crate) fn sender_identity(message: &[u8]) -> Option<[u8; 32]> {
    let (kind, bytes) = message.split_first()?;
    if *kind != TYPE_PREKEY || bytes.len() > MESSAGE_MAX {
        return None;
    }
    match OlmMessage::from_parts(usize::from(*kind), bytes).ok()? {
        OlmMessage::PreKey(first) => Some(first.identity_key().to_bytes()),
        OlmMessage::Normal(_) => None,
    }
}

/// What a ratchet message carried. Wiped on drop.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Opened {
    /// The content key.
    pub(crate) content_key: [u8; 32],
    /// The message began a session: store the account too, its one-time key is gone.
    pub(crate) new_session: bool,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("new_session", &self.new_session)
            .finish_non_exhaustive()
    }
}

/// The sessions with one peer device, at most [`SESSIONS_MAX`]. A peer that has a new device gets a
/// new set.
#[derive(Default)]
pub(crate) struct PeerSessions {
    /// The peer device's identity key, once a session exists.
    identity: Option<[u8; 32]>,
    /// The first is the one to send in: begun here, or received in, last.
    sessions: Vec<Session>,
}

#[derive(Serialize, Deserialize)]
struct StoredSessions {
    identity: Option<[u8; 32]>,
    sessions: Vec<SessionPickle>,
}

impl fmt::Debug for PeerSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerSessions({})", self.sessions.len())
    }
}

impl PeerSessions {
    /// No sessions yet.
    #[must_use]
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    /// Whether there is nothing to send in.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Takes over the sessions of another set with the same peer device, as the ones to send in.
    pub(crate) fn adopt(&mut self, other: Self) {
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

    /// Begins a session with a peer's prekey (one-time or last-resort). It is used for sending until
    /// something is received in another one.
    ///
    /// # Errors
    /// [`RatchetError::WeakKey`], or [`RatchetError::OtherIdentity`] when there are sessions with
    /// another identity key: those belong to another device.
    pub(crate) fn start(
        &mut self,
        account: &RatchetAccount,
        their_identity: [u8; 32],
        prekey: [u8; 32],
    ) -> Result<(), RatchetError> {
        self.check_identity(&their_identity)?;
        let session = account.account.create_outbound_session(
            SessionConfig::version_1(),
            Curve25519PublicKey::from_bytes(their_identity),
            Curve25519PublicKey::from_bytes(prekey),
        )?;
        self.identity = Some(their_identity);
        self.put_first(session);
        Ok(())
    }

    /// Encrypts a content key in the current session: type byte and message. Store the sessions before
    /// the message leaves, or a restart would use one message key for two messages.
    ///
    /// # Errors
    /// [`RatchetError::NoSession`] or [`RatchetError::WeakKey`].
    pub(crate) fn encrypt(&mut self, content_key: &[u8; 32]) -> Result<Vec<u8>, RatchetError> {
        let session = self.sessions.first_mut().ok_or(RatchetError::NoSession)?;
        let message = session
            .encrypt(content_key)
            .map_err(|_| RatchetError::WeakKey)?;
        let (kind, bytes) = match message {
            OlmMessage::PreKey(message) => (TYPE_PREKEY, message.to_bytes()),
            OlmMessage::Normal(message) => (TYPE_NORMAL, message.to_bytes()),
        };
        Ok([&[kind], bytes.as_slice()].concat())
    }

    /// Decrypts what [`Self::encrypt`] made on the other side, in any order within vodozemac's bounds:
    /// of the messages sent without an answer in between, 40 may be missing before a later one, and
    /// five such runs are remembered; what is further back is lost. So open what waited in the order
    /// in which it was sealed.
    ///
    /// # Errors
    /// [`RatchetError`] says why not. Then neither the sessions nor the account have changed.
    pub(crate) fn decrypt(
        &mut self,
        account: &mut RatchetAccount,
        their_identity: &[u8; 32],
        message: &[u8],
    ) -> Result<Opened, RatchetError> {
        self.check_identity(their_identity)?;
        if message.len() > MESSAGE_MAX {
            return Err(RatchetError::Malformed);
        }
        let (kind, bytes) = message.split_first().ok_or(RatchetError::Malformed)?;
        let message = OlmMessage::from_parts(usize::from(*kind), bytes)
            .map_err(|_| RatchetError::Malformed)?;
        if let OlmMessage::PreKey(first) = &message {
            let identity = Curve25519PublicKey::from_bytes(*their_identity);
            if first.identity_key() != identity {
                return Err(RatchetError::OtherIdentity);
            }
            let keys = first.session_keys();
            if !self
                .sessions
                .iter()
                .any(|session| session.session_keys() == keys)
            {
                let (session, content_key) = account.inbound(identity, first)?;
                self.identity = Some(*their_identity);
                self.put_first(session);
                return Ok(Opened {
                    content_key,
                    new_session: true,
                });
            }
        }
        let mut why = RatchetError::Undecryptable;
        for place in 0..self.sessions.len() {
            let Some(session) = self.sessions.get(place) else {
                break;
            };
            if let OlmMessage::PreKey(first) = &message
                && session.session_keys() != first.session_keys()
            {
                continue;
            }
            match try_decrypt(session, &message) {
                Ok((session, content_key)) => {
                    self.sessions.remove(place);
                    self.put_first(session);
                    return Ok(Opened {
                        content_key,
                        new_session: false,
                    });
                }
                Err(RatchetError::NoContentKey) => why = RatchetError::NoContentKey,
                Err(_) => {}
            }
        }
        Err(why)
    }

    /// The sessions with all their secrets, for storing them encrypted.
    #[must_use]
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let sessions = self.sessions.iter().map(Session::pickle).collect();
        store(&StoredSessions {
            identity: self.identity,
            sessions,
        })
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`RatchetError::Stored`] when the bytes are damaged or of a newer format.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, RatchetError> {
        let stored: StoredSessions = load(bytes)?;
        let sessions = stored
            .sessions
            .into_iter()
            .take(SESSIONS_MAX)
            .map(Session::from_pickle);
        Ok(Self {
            identity: stored.identity,
            sessions: sessions.collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// One end: its account and its sessions with the other.
    struct End {
        account: RatchetAccount,
        sessions: PeerSessions,
    }

    impl End {
        fn new() -> Self {
            Self {
                account: RatchetAccount::new(),
                sessions: PeerSessions::empty(),
            }
        }

        fn start(&mut self, other: &Self, prekey: [u8; 32]) {
            self.sessions
                .start(&self.account, other.account.identity(), prekey)
                .unwrap();
        }

        fn write(&mut self, number: u8) -> Vec<u8> {
            self.sessions.encrypt(&[number; 32]).unwrap()
        }

        fn read(&mut self, from: &Self, message: &[u8]) -> Result<u8, RatchetError> {
            let opened =
                self.sessions
                    .decrypt(&mut self.account, &from.account.identity(), message)?;
            assert_eq!(opened.content_key, [opened.content_key[0]; 32]);
            Ok(opened.content_key[0])
        }

        fn stored(&self) -> (Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>) {
            (self.account.to_bytes(), self.sessions.to_bytes())
        }

        fn restored(&self) -> Self {
            let (account, sessions) = self.stored();
            Self {
                account: RatchetAccount::from_bytes(&account).unwrap(),
                sessions: PeerSessions::from_bytes(&sessions).unwrap(),
            }
        }
    }

    /// Two ends; the first has begun a session with a one-time key of the second.
    fn pair() -> (End, End) {
        let (mut a, mut b) = (End::new(), End::new());
        let prekey = b.account.generate_one_time(1)[0];
        a.start(&b, prekey);
        (a, b)
    }

    /// Two ends that have both received.
    fn settled() -> (End, End) {
        let (mut a, mut b) = pair();
        let first = a.write(1);
        b.read(&a, &first).unwrap();
        let answer = b.write(2);
        a.read(&b, &answer).unwrap();
        (a, b)
    }

    #[test]
    fn a_first_message_and_its_answer_arrive() {
        let (mut a, mut b) = pair();
        let first = a.write(1);
        let opened = b
            .sessions
            .decrypt(&mut b.account, &a.account.identity(), &first)
            .unwrap();
        assert!(opened.new_session);
        assert_eq!(opened.content_key, [1; 32]);
        let answer = b.write(2);
        assert_eq!(a.read(&b, &answer), Ok(2));
        let (one, two) = (a.write(3), b.write(4));
        assert_eq!((b.read(&a, &one), a.read(&b, &two)), (Ok(3), Ok(4)));
        assert_eq!(first.len(), 201);
        assert_eq!(one.len(), 96);
    }

    #[test]
    fn messages_may_arrive_out_of_order_and_only_once() {
        let (mut a, mut b) = pair();
        let messages: Vec<Vec<u8>> = (0..20).map(|number| a.write(number)).collect();
        for number in [7, 0, 19, 3, 1, 2, 18, 12] {
            assert_eq!(b.read(&a, &messages[usize::from(number)]), Ok(number));
            let again = b.read(&a, &messages[usize::from(number)]);
            assert_eq!(again, Err(RatchetError::Undecryptable));
        }
        let answer = b.write(99);
        assert_eq!(a.read(&b, &answer), Ok(99));
        assert_eq!(b.read(&a, &messages[17]), Ok(17));
    }

    #[test]
    fn forty_messages_may_be_missing_before_a_later_one() {
        let (mut a, mut b) = pair();
        let messages: Vec<Vec<u8>> = (0..42).map(|number| a.write(number)).collect();
        assert_eq!(b.read(&a, &messages[41]), Ok(41));
        assert_eq!(b.read(&a, &messages[0]), Err(RatchetError::Undecryptable));
        for number in 1..41 {
            assert_eq!(b.read(&a, &messages[usize::from(number)]), Ok(number));
        }
    }

    #[test]
    fn both_may_begin_at_once() {
        let (mut a, mut b) = (End::new(), End::new());
        let (for_a, for_b) = (
            b.account.generate_one_time(1)[0],
            a.account.generate_one_time(1)[0],
        );
        a.start(&b, for_a);
        b.start(&a, for_b);
        // Several rounds in which the messages of both cross on the way.
        for round in 0..6 {
            let (from_a, from_b) = (a.write(round), b.write(100 + round));
            assert_eq!(b.read(&a, &from_a), Ok(round));
            assert_eq!(a.read(&b, &from_b), Ok(100 + round));
        }
        assert_eq!(
            (a.sessions.sessions.len(), b.sessions.sessions.len()),
            (2, 2)
        );
    }

    #[test]
    fn one_side_that_lost_its_sessions_begins_again() {
        let (mut a, mut b) = settled();
        b.sessions = PeerSessions::empty();
        let lost = a.write(5);
        assert_eq!(b.read(&a, &lost), Err(RatchetError::Undecryptable));
        let prekey = a.account.generate_one_time(1)[0];
        b.start(&a, prekey);
        let reset = b.write(6);
        assert_eq!(a.read(&b, &reset), Ok(6));
        let again = a.write(7);
        assert_eq!(b.read(&a, &again), Ok(7));
    }

    #[test]
    fn a_lost_one_time_key_falls_back_to_the_last_resort_key() {
        let (mut a, mut b) = (End::new(), End::new());
        let last_resort = b.account.fallback();
        // A key from a state of the account that a crash took back.
        let before = b.account.to_bytes();
        let lost = b.account.generate_one_time(1)[0];
        b.account = RatchetAccount::from_bytes(&before).unwrap();
        a.start(&b, lost);
        let message = a.write(1);
        assert_eq!(b.read(&a, &message), Err(RatchetError::UnknownPrekey));
        a.start(&b, last_resort);
        let message = a.write(2);
        assert_eq!(b.read(&a, &message), Ok(2));
        // It serves more than once, and stays the same.
        let mut c = End::new();
        c.start(&b, last_resort);
        let message = c.write(3);
        b.sessions = PeerSessions::empty();
        assert_eq!(b.read(&c, &message), Ok(3));
        assert_eq!(b.account.fallback(), last_resort);
    }

    #[test]
    fn a_one_time_key_serves_once() {
        let (mut a, mut b) = (End::new(), End::new());
        let prekey = b.account.generate_one_time(1)[0];
        a.start(&b, prekey);
        let first = a.write(1);
        assert_eq!(b.read(&a, &first), Ok(1));
        b.sessions = PeerSessions::empty();
        assert_eq!(b.read(&a, &first), Err(RatchetError::UnknownPrekey));
    }

    #[test]
    fn both_ends_continue_from_stored_bytes_at_any_point() {
        let (mut a, mut b) = pair();
        let mut early = a.write(0);
        for number in 1..10 {
            (a, b) = (a.restored(), b.restored());
            let message = a.write(number);
            assert_eq!(b.read(&a, &message), Ok(number));
            (a, b) = (a.restored(), b.restored());
            let answer = b.write(number);
            assert_eq!(a.read(&b, &answer), Ok(number));
            // One that was overtaken by the message and the answer.
            assert_eq!(b.read(&a, &early), Ok(number - 1));
            early = a.write(number);
        }
        assert_eq!(b.read(&a, &early), Ok(9));
        let (account, sessions) = a.stored();
        let again = a.restored().stored();
        assert_eq!(
            (account.len(), sessions.len()),
            (again.0.len(), again.1.len())
        );
    }

    #[test]
    fn a_failed_decrypt_changes_nothing() {
        let (mut a, mut b) = pair();
        b.account.fallback();
        let first = a.write(1);
        let before = b.stored();
        for place in 0..first.len() {
            let mut forged = first.clone();
            forged[place] ^= 1;
            assert!(b.read(&a, &forged).is_err(), "byte {place}");
        }
        assert_eq!(b.stored(), before);
        assert_eq!(b.read(&a, &first), Ok(1));
        let answer = b.write(2);
        a.read(&b, &answer).unwrap();
        let next = a.write(3);
        // Two states of the receiver: before it answers again, its own ratchet key is not made yet.
        let before = b.stored();
        for place in 0..next.len() {
            let mut forged = next.clone();
            forged[place] ^= 0x10;
            assert!(b.read(&a, &forged).is_err(), "byte {place}");
        }
        assert_eq!(b.stored(), before);
        assert_eq!(b.read(&a, &next), Ok(3));
        let before = b.stored();
        let later = a.write(4);
        let mut forged = later.clone();
        // In the ratchet key: makes the receiver step forward on trial.
        forged[10] ^= 1;
        assert!(b.read(&a, &forged).is_err());
        assert_eq!(b.stored(), before);
        assert_eq!(b.read(&a, &later), Ok(4));
    }

    #[test]
    fn a_message_without_a_content_key_takes_no_prekey_away() {
        let (mut a, mut b) = pair();
        let before = b.stored();
        let OlmMessage::PreKey(message) = a.sessions.sessions[0].encrypt("short").unwrap() else {
            panic!("a session begins with a prekey message");
        };
        let message = [&[TYPE_PREKEY], message.to_bytes().as_slice()].concat();
        assert_eq!(b.read(&a, &message), Err(RatchetError::NoContentKey));
        assert_eq!(b.stored(), before);
        let good = a.write(1);
        assert_eq!(b.read(&a, &good), Ok(1));
    }

    #[test]
    fn a_message_of_another_device_is_refused() {
        let (mut a, mut b) = pair();
        let stranger = End::new();
        let first = a.write(1);
        assert_eq!(b.read(&stranger, &first), Err(RatchetError::OtherIdentity));
        assert_eq!(b.read(&a, &first), Ok(1));
        assert_eq!(
            b.read(&stranger, &a.write(2)),
            Err(RatchetError::OtherIdentity)
        );
        let key = stranger.account.identity();
        assert_eq!(
            b.sessions.start(&b.account, key, key),
            Err(RatchetError::OtherIdentity)
        );
        // Sent back to its author.
        let mine = a.write(3);
        assert_eq!(a.read(&b, &mine), Err(RatchetError::OtherIdentity));
    }

    #[test]
    fn keys_of_small_order_are_refused() {
        let (a, mut b) = (End::new(), End::new());
        let good = b.account.generate_one_time(1)[0];
        let mut sessions = PeerSessions::empty();
        for weak in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            let identity = b.account.identity();
            assert_eq!(
                sessions.start(&a.account, identity, weak),
                Err(RatchetError::WeakKey)
            );
            assert_eq!(
                sessions.start(&a.account, weak, good),
                Err(RatchetError::WeakKey)
            );
        }
        assert!(sessions.is_empty());
        assert_eq!(sessions.encrypt(&[1; 32]), Err(RatchetError::NoSession));
    }

    #[test]
    fn sessions_are_bounded_and_the_one_in_use_stays() {
        let (mut a, mut b) = settled();
        for number in 0..10 {
            let prekey = b.account.generate_one_time(1)[0];
            a.start(&b, prekey);
            let message = a.write(number);
            assert_eq!(b.read(&a, &message), Ok(number));
            assert!(a.sessions.sessions.len() <= SESSIONS_MAX);
            assert!(b.sessions.sessions.len() <= SESSIONS_MAX);
        }
        let answer = b.write(77);
        assert_eq!(a.read(&b, &answer), Ok(77));
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let (mut a, mut b) = settled();
        let (prekey, normal) = (pair().0.write(1), a.write(1));
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize
        };
        for round in 0..2_000 {
            let mut bytes = if round % 2 == 0 {
                prekey.clone()
            } else {
                normal.clone()
            };
            match round % 3 {
                0 => bytes.truncate(random() % bytes.len()),
                1 => bytes = (0..random() % 600).map(|_| random() as u8).collect(),
                _ => {
                    for _ in 0..4 {
                        let place = random() % bytes.len();
                        bytes[place] = random() as u8;
                    }
                }
            }
            if bytes != normal {
                assert!(b.read(&a, &bytes).is_err());
            }
            assert!(RatchetAccount::from_bytes(&bytes).is_err());
            assert!(PeerSessions::from_bytes(&bytes).is_err());
        }
        assert_eq!(b.read(&a, &normal), Ok(1));
        let stored = a.sessions.to_bytes();
        for cut in 0..stored.len() {
            assert!(PeerSessions::from_bytes(&stored[..cut]).is_err());
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        let (a, _) = pair();
        assert_eq!(format!("{:?}", a.account), "RatchetAccount { .. }");
        assert_eq!(format!("{:?}", a.sessions), "PeerSessions(1)");
        let opened = Opened {
            content_key: [9; 32],
            new_session: true,
        };
        assert_eq!(format!("{opened:?}"), "Opened { new_session: true, .. }");
    }
}
