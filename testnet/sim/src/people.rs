//! The people of the world: what they do through their machines, and what they remember themselves, which
//! is all that the judge believes: begun, answered, refused, unknown.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::engine::Engine;
use crate::error::{ErrorKind, Result};
use crate::plan::{Act, Operation};
use crate::protocol::invitation::Invitation;
use crate::protocol::types::AccountId;
use crate::view::Money;
use crate::world::{Happening, Standing, World};

/// The one unit that people use here.
pub(crate) const UNIT: &str = "KRW";
/// A person whose machine is down tries again after this long.
const TRY_AGAIN: u64 = 3_000;
/// A machine that answers nothing is asked again after this long.
const PATIENCE: u64 = 8_000;

/// One person with one account.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) node: usize,
    pub(crate) id: AccountId,
    /// Whom this person can write to, in the order of meeting.
    pub(crate) contacts: Vec<usize>,
    /// Their machine's disk was set back: what they did since is not theirs to know.
    pub(crate) set_back: bool,
    /// Came back from the words: what was not safe may be gone.
    pub(crate) restored: bool,
    /// Their machine or its disk is gone, and they are not back yet.
    pub(crate) lost: bool,
    /// The last restore said that it could not read enough keepers.
    pub(crate) partial: bool,
    /// Machines that the account ever lived on.
    pub(crate) homes: BTreeSet<usize>,
    /// Where the account is being restored now.
    pub(crate) restoring: Option<usize>,
    /// The 24 words.
    pub(crate) words: String,
}

/// How far an operation has come, as the person knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// Not tried yet.
    Nothing,
    /// Asked; no answer yet.
    Asked,
    /// Done, and this is its id.
    Done(String),
    /// Refused, and nothing happened.
    Refused(ErrorKind),
    /// The machine died before it answered.
    Unknown,
}

/// An operation and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Deed {
    pub(crate) operation: Operation,
    pub(crate) known: Known,
    /// To whom; chosen when it was first tried.
    pub(crate) whom: Option<usize>,
    /// The life of the machine that was asked.
    pub(crate) asked_in: u64,
    /// It was once asked and never answered: it may have happened, though the answer was no.
    pub(crate) in_doubt: bool,
}

/// An answer of a machine.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) place: usize,
    pub(crate) result: std::result::Result<String, (ErrorKind, String)>,
}

impl World {
    /// A person does what the plan says, or tries again.
    pub(crate) fn act(&mut self, place: usize) {
        let Some(deed) = self.deeds.get(place) else {
            return;
        };
        if matches!(deed.known, Known::Refused(_)) {
            return;
        }
        let operation = deed.operation.clone();
        let person = self.people[operation.who].clone();
        let machine = &self.machines[person.node];
        match machine.standing {
            Standing::Gone | Standing::Down => {
                return self.later(TRY_AGAIN, Happening::Act { place });
            }
            Standing::Up => {}
        }
        if deed.known == Known::Asked && deed.asked_in == machine.life {
            return self.later(PATIENCE, Happening::Act { place });
        }
        if person.restoring.is_some() {
            return self.later(TRY_AGAIN, Happening::Act { place });
        }
        if deed.known == Known::Unknown && !operation.key {
            return;
        }
        let Some(whom) = deed.whom.or_else(|| self.choose(&operation, &person)) else {
            return;
        };
        let link = match operation.act {
            Act::Meet { .. } => match self.invitation(whom, operation.who) {
                Some(link) => Some(link),
                None => return,
            },
            _ => None,
        };
        let keeper = match operation.act {
            Act::Keeper => match self.second_keeper(&person) {
                Some(id) => Some(id),
                None => return,
            },
            _ => None,
        };
        let life = self.machines[person.node].life;
        let other = self.people[whom].id;
        let deed = &mut self.deeds[place];
        deed.whom = Some(whom);
        deed.asked_in = life;
        if !matches!(deed.known, Known::Done(_)) {
            deed.known = Known::Asked;
        }
        let at = self.age();
        self.trace.say(at, || {
            format!(
                "person {} (machine {}) does {}: {:?} with person {whom}",
                operation.who, person.node, operation.number, operation.act
            )
        });
        let me = person.id;
        let number = operation.number;
        let key = operation.key;
        let act = operation.act;
        let answers = Arc::clone(&self.answers);
        let call = Engine::call(
            move |engine| do_act(engine, me, other, act, number, key, link, keeper),
            move |result| {
                let result = result.map_err(|error| (error.kind(), error.message().to_owned()));
                if let Ok(mut list) = answers.lock() {
                    list.push(Answer { place, result });
                }
            },
        );
        self.input(person.node, call);
    }

    fn choose(&self, operation: &Operation, person: &Person) -> Option<usize> {
        match operation.act {
            Act::Text { contact }
            | Act::Pay { contact, .. }
            | Act::Limit { contact, .. }
            | Act::Read { contact }
            | Act::Block { contact, .. } => {
                let count = person.contacts.len();
                (count > 0).then(|| person.contacts[contact % count])
            }
            Act::Meet { whom } => {
                (whom != operation.who && !person.contacts.contains(&whom)).then_some(whom)
            }
            Act::Keeper => person.contacts.first().copied(),
        }
    }

    /// An invitation, handed over outside of the world.
    fn invitation(&mut self, whom: usize, guest: usize) -> Option<String> {
        let person = self.people[whom].clone();
        let machine = &self.machines[person.node];
        if machine.standing != Standing::Up || machine.crash.is_some() || machine.paused > self.now
        {
            return None;
        }
        let made = self.call_now(person.node, move |engine| engine.invite(&person.id, None));
        let link = made.ok()?.link;
        let (invitation, _) = Invitation::parse(&link, self.clock(person.node)).ok()?;
        self.invitations
            .insert((whom, guest), invitation.capability.id());
        Some(link)
    }

    /// A machine in a building where one of a person's keepers stands.
    fn second_keeper(&self, person: &Person) -> Option<String> {
        let engine = self.machines[person.node].engine.as_ref()?;
        let own = engine.own_accounts().find(|(id, _)| **id == person.id)?.1;
        let keepers: Vec<usize> = own
            .record
            .record
            .keepers
            .iter()
            .filter_map(|keeper| self.by_id.get(&keeper.place.node).copied())
            .collect();
        let options = &self.plan.options;
        (0..self.machines.len())
            .filter(|node| *node != person.node && !keepers.contains(node))
            .find(|node| {
                keepers
                    .iter()
                    .any(|keeper| keeper % options.buildings == node % options.buildings)
            })
            .map(|node| self.machines[node].id.to_string())
    }

    /// Takes the answers that machines gave in this step.
    pub(crate) fn take_answers(&mut self) {
        let list = match self.answers.lock() {
            Ok(mut list) => std::mem::take(&mut *list),
            Err(_) => return,
        };
        for answer in list {
            self.answered(answer);
        }
    }

    fn answered(&mut self, answer: Answer) {
        let at = self.age();
        let Some(deed) = self.deeds.get_mut(answer.place) else {
            return;
        };
        let (who, whom, number) = (deed.operation.who, deed.whom, deed.operation.number);
        let act = deed.operation.act;
        let before = deed.known.clone();
        match answer.result {
            Ok(id) => {
                if let Known::Done(first) = &before
                    && *first != id
                    && deed.operation.key
                    && !self.people[who].set_back
                    && !self.people[who].restored
                {
                    let what = format!(
                        "operation {number} with one key was answered twice: {first}, then {id}"
                    );
                    return self.fail("M6", what);
                }
                let deed = &mut self.deeds[answer.place];
                let again =
                    deed.operation.twice && deed.operation.key && !matches!(before, Known::Done(_));
                deed.known = Known::Done(id.clone());
                if let (Act::Meet { .. }, Some(whom)) = (act, whom)
                    && !self.people[who].contacts.contains(&whom)
                {
                    self.people[who].contacts.push(whom);
                    self.people[whom].contacts.push(who);
                }
                self.trace
                    .say(at, || format!("person {who}: {number} is done: {id}"));
                if again {
                    let after = self.dice.below(10_000);
                    self.later(
                        after,
                        Happening::Act {
                            place: answer.place,
                        },
                    );
                }
            }
            Err((kind, why)) => {
                self.trace
                    .say(at, || format!("person {who}: {number} is refused: {why}"));
                if kind == ErrorKind::Busy {
                    if !matches!(before, Known::Done(_)) {
                        deed.known = if deed.in_doubt {
                            Known::Unknown
                        } else {
                            Known::Nothing
                        };
                    }
                    return self.later(
                        TRY_AGAIN,
                        Happening::Act {
                            place: answer.place,
                        },
                    );
                }
                if let Known::Done(first) = &before {
                    if deed.operation.key
                        && !self.people[who].set_back
                        && !self.people[who].restored
                        && matches!(act, Act::Text { .. } | Act::Pay { .. })
                    {
                        let what =
                            format!("operation {number} was done ({first}), then refused: {why}");
                        self.fail("M6", what);
                    }
                    return;
                }
                deed.known = Known::Refused(kind);
            }
        }
    }

    /// A machine died: what it had not answered is unknown.
    pub(crate) fn forget_answers_of(&mut self, node: usize) {
        if let Ok(mut list) = self.answers.lock() {
            list.clear();
        }
        for deed in &mut self.deeds {
            if deed.known == Known::Asked && self.people[deed.operation.who].node == node {
                deed.known = Known::Unknown;
                deed.in_doubt = true;
            }
        }
    }

    /// A machine is back: its people ask again for what was not answered.
    pub(crate) fn retry_deeds_of(&mut self, node: usize) {
        let places: Vec<usize> = (0..self.deeds.len())
            .filter(|place| {
                let deed = &self.deeds[*place];
                deed.known == Known::Unknown
                    && deed.operation.key
                    && self.people[deed.operation.who].node == node
            })
            .collect();
        for place in places {
            let after = self.dice.range(10, TRY_AGAIN);
            self.later(after, Happening::Act { place });
        }
    }

    /// A machine's disk was set back: what its people were told may not be so any more.
    pub(crate) fn set_back(&mut self, node: usize) {
        for person in &mut self.people {
            if person.node == node {
                person.set_back = true;
            }
        }
        self.watch_again(node);
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call, all of it moved into a closure"
)]
fn do_act(
    engine: &mut Engine,
    me: AccountId,
    other: AccountId,
    act: Act,
    number: usize,
    key: bool,
    link: Option<String>,
    keeper: Option<String>,
) -> Result<String> {
    let who = other.to_string();
    let key = key.then(|| format!("key-{number}"));
    match act {
        Act::Text { .. } => engine
            .send_text(&me, &who, &text_of(number), key.as_deref())
            .map(|view| view.id),
        Act::Pay { amount, .. } => {
            let money = Money {
                amount: amount.to_string(),
                currency: UNIT.into(),
            };
            engine
                .pay(
                    &me,
                    &who,
                    &money,
                    &text_of(number),
                    key.as_deref().unwrap_or("none"),
                )
                .map(|view| view.id)
        }
        Act::Limit { amount, .. } => engine
            .set_limit(&me, &who, UNIT, &amount.to_string())
            .map(|view| view.id),
        Act::Read { .. } => engine.mark_read(&me, &who).map(|_| String::new()),
        Act::Block { on, .. } => engine.block_contact(&me, &who, on).map(|view| view.id),
        Act::Meet { .. } => engine
            .add_contact(&me, link.as_deref().unwrap_or_default(), None)
            .map(|view| view.id),
        Act::Keeper => engine
            .add_keeper(&me, keeper.as_deref().unwrap_or_default())
            .map(|_| String::new()),
    }
}

/// What an operation writes: its number, so that everybody can tell whose it is.
pub(crate) fn text_of(number: usize) -> String {
    format!("operation {number}")
}

/// The number in such a text.
pub(crate) fn number_of(text: &str) -> Option<usize> {
    text.strip_prefix("operation ")?.parse().ok()
}
