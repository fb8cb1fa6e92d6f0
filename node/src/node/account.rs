//! The handle of one account of a node.

use pumasi_protocol::types::AccountId;
use zeroize::Zeroizing;

use super::{Events, Node, Page};
use crate::error::Result;
use crate::read;
use crate::view::{
    AccountView, ChatView, ContactView, InvitationView, KeepersView, LineView, MessageView, Money,
    OpenedView, PaymentView,
};

/// An account of a node. Clones are handles to the same account.
#[derive(Debug, Clone)]
pub struct Account {
    node: Node,
    id: AccountId,
}

/// Runs an engine method with owned copies of text arguments.
macro_rules! on_engine {
    ($self:ident, $($text:ident),* => |$engine:ident, $id:ident| $work:expr) => {{
        let $id = $self.id;
        $(let $text = $text.to_owned();)*
        $self.node.ask(move |$engine| $work).await
    }};
}

/// The same for what signs.
macro_rules! signing {
    ($self:ident, $($text:ident),* => |$engine:ident, $id:ident| $work:expr) => {{
        let $id = $self.id;
        $(let $text = $text.to_owned();)*
        $self.node.ask_to_sign($id, move |$engine| $work).await
    }};
}

impl Account {
    pub(super) fn new(node: Node, id: AccountId) -> Self {
        Self { node, id }
    }

    /// The account's id.
    #[must_use]
    pub fn id(&self) -> AccountId {
        self.id
    }

    /// The node it is on.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Name, fingerprint, record version.
    ///
    /// # Errors
    /// `NotFound` when the account is not on this node.
    pub async fn info(&self) -> Result<AccountView> {
        on_engine!(self, => |engine, id| engine.account_view(&id))
    }

    /// Changes the name in its record.
    ///
    /// # Errors
    /// `Invalid` or `TooLarge` for the name, `Exists` when it is taken on this node.
    pub async fn rename(&self, name: &str) -> Result<AccountView> {
        signing!(self, name => |engine, id| engine.rename_account(&id, &name))
    }

    /// A new invitation; `name` is what the one who comes will be called here.
    ///
    /// # Errors
    /// `TooLarge` when too many are open.
    pub async fn invite(&self, name: Option<&str>) -> Result<InvitationView> {
        let name = name.map(str::to_owned);
        signing!(self, => |engine, id| engine.invite(&id, name.as_deref()))
    }

    /// All contacts, by name.
    ///
    /// # Errors
    /// `Storage` when the store cannot be read.
    pub async fn contacts(&self) -> Result<Vec<ContactView>> {
        let id = self.id;
        self.node.read(move |db| read::contacts(db, &id)).await
    }

    /// One contact, by name, id or the first characters of the id.
    ///
    /// # Errors
    /// `NotFound` or `Ambiguous`.
    pub async fn contact(&self, who: &str) -> Result<ContactView> {
        let (id, who) = (self.id, who.to_owned());
        self.node
            .read(move |db| {
                let contact = read::find_contact(db, &id, &who)?;
                read::contact(db, &id, &contact)
            })
            .await
    }

    /// Becomes a contact of whoever made an invitation. It is `invited` until the other side answers.
    ///
    /// # Errors
    /// `Invalid` for a link that cannot be used, `Exists` when it is a contact already.
    pub async fn add_contact(&self, link: &str, name: Option<&str>) -> Result<ContactView> {
        let name = name.map(str::to_owned);
        signing!(self, link => |engine, id| engine.add_contact(&id, &link, name.as_deref()))
    }

    /// Gives a contact another name.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, `Exists`.
    pub async fn rename_contact(&self, who: &str, name: &str) -> Result<ContactView> {
        signing!(self, who, name => |engine, id| engine.rename_contact(&id, &who, &name))
    }

    /// Notes that a contact's fingerprint was compared, if it is the right one.
    ///
    /// # Errors
    /// `NotFound`; `Refused` when the fingerprint is another.
    pub async fn verify_contact(&self, who: &str, fingerprint: &str) -> Result<ContactView> {
        signing!(self, who, fingerprint => |engine, id| {
            engine.verify_contact(&id, &who, &fingerprint)
        })
    }

    /// Blocks a contact at the keepers, or lets it write again.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn block_contact(&self, who: &str, blocked: bool) -> Result<ContactView> {
        signing!(self, who => |engine, id| engine.block_contact(&id, &who, blocked))
    }

    /// Ends with a contact; its messages go too.
    ///
    /// # Errors
    /// `NotFound`; `Refused` while something is owed.
    pub async fn remove_contact(&self, who: &str) -> Result<()> {
        signing!(self, who => |engine, id| engine.remove_contact(&id, &who))
    }

    /// Writes a text. It is saved when this returns; how far it comes is told by events and by
    /// [`Account::message`]. With a key, the same call again gives the same message.
    ///
    /// # Errors
    /// `TooLarge` above 60 KiB, `Invalid` when empty, `NotFound`, `Busy` when too much waits.
    pub async fn send(&self, who: &str, text: &str, key: Option<&str>) -> Result<MessageView> {
        let key = key.map(str::to_owned);
        signing!(self, who, text => |engine, id| engine.send_text(&id, &who, &text, key.as_deref()))
    }

    /// One message.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for a wrong id.
    pub async fn message(&self, message: &str) -> Result<MessageView> {
        let (id, message) = (self.id, super::parse_message(message)?);
        self.node
            .read(move |db| read::message(db, &id, &message))
            .await
    }

    /// Deletes a text for this account: here, and in the archive. It is not shown again when it
    /// comes again. What is under way to others still goes.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for a wrong id; `Refused` for an IOU: what is owed stays told.
    pub async fn delete_message(&self, message: &str) -> Result<()> {
        let message = super::parse_message(message)?;
        signing!(self, => |engine, id| engine.delete_message(&id, &message))
    }

    /// Opens what this device could not open, by the copies for the account's 24 words. The words are
    /// wiped after use.
    ///
    /// # Errors
    /// `Invalid` when these are not the words of an account, `Refused` when they are another
    /// account's.
    pub async fn open_unopened(&self, words: &str) -> Result<OpenedView> {
        let words = Zeroizing::new(words.to_owned());
        signing!(self, => |engine, id| engine.open_with_words(&id, &words))
    }

    /// A page of a conversation, oldest first; the newest page when neither side is given.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub async fn messages(&self, who: &str, page: Page) -> Result<Vec<MessageView>> {
        let (id, who) = (self.id, who.to_owned());
        self.node
            .read(move |db| {
                let contact = read::find_contact(db, &id, &who)?;
                read::messages(db, &id, &contact, &page)
            })
            .await
    }

    /// All conversations, the latest first.
    ///
    /// # Errors
    /// `Storage` when the store cannot be read.
    pub async fn chats(&self) -> Result<Vec<ChatView>> {
        let id = self.id;
        self.node.read(move |db| read::chats(db, &id)).await
    }

    /// Marks everything a contact wrote as read, and tells it. Returns how many.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn mark_read(&self, who: &str) -> Result<u64> {
        signing!(self, who => |engine, id| engine.mark_read(&id, &who))
    }

    /// All lines.
    ///
    /// # Errors
    /// `Storage` when the store cannot be read.
    pub async fn lines(&self) -> Result<Vec<LineView>> {
        let id = self.id;
        self.node.read(move |db| read::lines(db, &id)).await
    }

    /// The line with a contact in a unit.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn line(&self, who: &str, unit: &str) -> Result<LineView> {
        on_engine!(self, who, unit => |engine, id| engine.line_of(&id, &who, &unit))
    }

    /// Sets how much a contact may owe, in a unit. Opens the line where there is none.
    ///
    /// # Errors
    /// `Invalid` for amount or unit, `NotFound`, `LineStopped`.
    pub async fn set_limit(&self, who: &str, unit: &str, amount: &str) -> Result<LineView> {
        signing!(self, who, unit, amount => |engine, id| {
            engine.set_limit(&id, &who, &unit, &amount)
        })
    }

    /// Offers to close a line; it closes when the other side offers it too, at zero.
    ///
    /// # Errors
    /// `NotFound`, `Refused` when the offer stands already.
    pub async fn close_line(&self, who: &str, unit: &str) -> Result<LineView> {
        signing!(self, who, unit => |engine, id| engine.close_line(&id, &who, &unit))
    }

    /// Signs an IOU. The same key with the same arguments gives the same payment: a retry never pays
    /// twice.
    ///
    /// # Errors
    /// `Invalid` for amount 0 and other wrong arguments, `CreditLimitExceeded` with the detail
    /// `available`, `LineStopped`, `NotFound`, `IdempotencyKeyReused`, `Busy`.
    pub async fn pay(
        &self,
        who: &str,
        amount: &Money,
        note: &str,
        key: &str,
    ) -> Result<PaymentView> {
        let amount = amount.clone();
        signing!(self, who, note, key => |engine, id| engine.pay(&id, &who, &amount, &note, &key))
    }

    /// One payment.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for a wrong id.
    pub async fn payment(&self, payment: &str) -> Result<PaymentView> {
        let (id, payment) = (self.id, payment.to_owned());
        self.node
            .read(move |db| read::payment(db, &id, &payment))
            .await
    }

    /// A page of payments, newest first.
    ///
    /// # Errors
    /// `NotFound` or `Invalid` for the page's ids.
    pub async fn payments(&self, page: Page) -> Result<Vec<PaymentView>> {
        let id = self.id;
        self.node
            .read(move |db| read::payments(db, &id, &page))
            .await
    }

    /// Where the mailbox is kept, and what would be lost if a building burned.
    ///
    /// # Errors
    /// `NotFound` when the account is not on this node.
    pub async fn keepers(&self) -> Result<KeepersView> {
        on_engine!(self, => |engine, id| engine.keepers_report(&id))
    }

    /// Asks a node, or a contact's node, to keep. Returns at once with the state now.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `Invalid`, `TooLarge`.
    pub async fn add_keeper(&self, who: &str) -> Result<KeepersView> {
        signing!(self, who => |engine, id| engine.add_keeper(&id, &who))
    }

    /// Does without a keeper from now on.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub async fn remove_keeper(&self, node: &str) -> Result<KeepersView> {
        signing!(self, node => |engine, id| engine.remove_keeper(&id, &node))
    }

    /// This account's events, acknowledged under a name; see [`Node::subscribe`].
    ///
    /// # Errors
    /// `Invalid` for an empty or long name.
    pub async fn subscribe(&self, name: &str) -> Result<Events> {
        Events::open(self.node.clone(), name, Some(self.id)).await
    }
}
