//! People whose machine is gone, or whose disk was set back: they take another machine and type their
//! 24 words, again and again until their account is there.

use rusqlite::params;

use crate::engine::Engine;
use crate::plan::building_of;
use crate::protocol::envelope::CapabilityId;
use crate::protocol::types::AccountId;
use crate::world::{Happening, Standing, World};

/// Between looks at how far a restore is.
const LOOK: u64 = 1_000;
/// Before a restore that was not complete is begun anew: by then keepers that burned are replaced.
const ONCE_MORE: u64 = 45_000;
/// A person who lost a machine finds another one within this time.
const FIND: u64 = 8_000;

impl World {
    /// The people of a machine that is gone.
    pub(crate) fn lose_people_of(&mut self, node: usize) {
        for person in 0..self.people.len() {
            if self.people[person].node == node {
                self.lose(person);
            }
            if self.people[person].restoring == Some(node) {
                self.people[person].restoring = None;
                self.later(LOOK, Happening::Restore { person });
            }
        }
    }

    /// What burns with a machine's disk before it was safe: invitations that its people gave out. Whoever
    /// holds one knocks in vain, and nobody promised otherwise.
    pub(crate) fn lose_invitations_of(&mut self, node: usize) {
        let Some(db) = self.machines[node].committed() else {
            return;
        };
        let unsafe_here = |account: &AccountId, capability: &CapabilityId| {
            db.prepare_cached(
                "SELECT 1 FROM invitations i JOIN archives a ON a.account = i.account
                 WHERE i.account = ?1 AND i.capability = ?2 AND i.page > a.safe",
            )
            .and_then(|mut query| query.exists(params![account.0, capability.0]))
            .unwrap_or(false)
        };
        let burned: Vec<(usize, usize)> = self
            .invitations
            .iter()
            .filter(|((host, _), capability)| {
                let host = &self.people[*host];
                host.node == node && unsafe_here(&host.id, capability)
            })
            .map(|(pair, _)| *pair)
            .collect();
        self.burned_invitations.extend(burned);
    }

    fn lose(&mut self, person: usize) {
        let id = self.people[person].id;
        self.people[person].restored = true;
        self.people[person].lost = true;
        self.watch.shown.retain(|(account, _)| *account != id);
        let after = self.dice.range(1_000, FIND);
        self.later(after, Happening::Restore { person });
    }

    /// A person whose restore was not complete begins anew, once the storm is over.
    pub(crate) fn complete(&mut self, person: usize) {
        if self.stormy {
            return self.later(LOOK, Happening::Complete { person });
        }
        if self.people[person].partial && !self.away(person) {
            self.lose(person);
        }
    }

    /// Whether a person still has to come back.
    pub(crate) fn away(&self, person: usize) -> bool {
        let person = &self.people[person];
        let gone = self.machines[person.node].standing == Standing::Gone;
        person.lost || person.restoring.is_some() || gone
    }

    /// A person whose machine's disk was set back looks whether the account still signs.
    pub(crate) fn look_at_level(&mut self, person: usize) {
        let node = self.people[person].node;
        let id = self.people[person].id;
        let word = match &self.machines[node].engine {
            Some(engine) => engine.level_word(&id),
            None => "checking",
        };
        match word {
            "behind" | "replaced" if self.people[person].set_back && !self.away(person) => {
                self.people[person].set_back = false;
                self.hit("older copy noticed");
                self.lose(person);
            }
            "checking" => self.later(LOOK, Happening::Level { person }),
            _ => {}
        }
    }

    /// A person types the words at another machine.
    pub(crate) fn restore(&mut self, person: usize) {
        // Back already, where a second blow fell on the machine that was lost before.
        if self.people[person].restoring.is_some() || !self.people[person].lost {
            return;
        }
        let options = &self.plan.options;
        let old = self.people[person].node;
        let ready: Vec<usize> = (0..self.machines.len())
            .filter(|node| *node != old && building_of(*node, options) != options.cursed)
            .filter(|node| self.machines[*node].standing == Standing::Up)
            .collect();
        if ready.is_empty() {
            return self.later(LOOK, Happening::Restore { person });
        }
        let node = ready[self.dice.index(ready.len())];
        let life = self.machines[node].life;
        let words = self.people[person].words.clone();
        let at = self.age();
        self.trace
            .say(at, || format!("person {person} restores at machine {node}"));
        self.hit("restore from the words");
        self.people[person].restoring = Some(node);
        let call = Engine::call(
            move |engine| engine.begin_restore(&words, None, &[]),
            |_| {},
        );
        self.input(node, call);
        self.later(LOOK, Happening::Look { person, node, life });
    }

    /// A person looks how far the restore is.
    pub(crate) fn look_at_restore(&mut self, person: usize, node: usize, life: u64) {
        if self.people[person].restoring != Some(node) {
            return;
        }
        let id = self.people[person].id;
        let machine = &mut self.machines[node];
        let here = machine
            .engine
            .as_ref()
            .is_some_and(|engine| engine.own_accounts().any(|(own, _)| *own == id));
        if here {
            let report = machine.engine.as_mut().and_then(|engine| {
                let view = engine.restore_view(&id).ok()?;
                view.report
            });
            let complete = report.is_none_or(|report| report.complete);
            return self.is_back(person, node, complete);
        }
        if machine.standing != Standing::Up || machine.life != life {
            // The power was cut in the middle: begin again.
            self.hit("restore cut off");
            self.people[person].restoring = None;
            return self.later(LOOK, Happening::Restore { person });
        }
        let view = machine
            .engine
            .as_mut()
            .map(|engine| engine.restore_view(&id));
        let at = self.age();
        match view {
            Some(Ok(view)) if view.state == "failed" => {
                self.trace.say(at, || {
                    format!("person {person}: the restore failed: {}", view.text)
                });
                self.people[person].restoring = None;
                self.later(LOOK, Happening::Restore { person });
            }
            Some(Ok(view)) => {
                self.trace.say(at, || {
                    format!("person {person}: {} {}", view.state, view.text)
                });
                self.later(LOOK, Happening::Look { person, node, life });
            }
            _ => self.later(LOOK, Happening::Look { person, node, life }),
        }
    }

    fn is_back(&mut self, person: usize, node: usize, complete: bool) {
        let at = self.age();
        self.trace
            .say(at, || format!("person {person} is back at machine {node}"));
        self.hit("restored");
        let number = person;
        let person = &mut self.people[person];
        person.partial = !complete;
        person.node = node;
        person.restoring = None;
        person.set_back = false;
        person.lost = false;
        person.homes.insert(node);
        if !complete {
            // Told that something may be missing: the words once more, when keepers can be reached again.
            self.hit("restored in part");
            self.later(ONCE_MORE, Happening::Complete { person: number });
        }
        self.retry_deeds_of(node);
    }
}
