//! Sessions between machines: frames in order within a session, lost only with it; dialling; gossip.

use std::sync::Arc;

use crate::check;
use crate::engine::Input;
use crate::protocol::crypto;
use crate::world::{Happening, Standing, World};

/// A replayed frame comes at most so many milliseconds after the first.
const REPLAY_WITHIN: u64 = 60_000;
/// A dialling takes at most so many milliseconds, however slow the machines are.
const DIAL_WITHIN: u64 = 5_000;

/// What is between two machines; index 0 is from the lower to the higher.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// The session that is there now; 0: none.
    pub(crate) session: u64,
    /// When the last frame of each direction arrives: frames keep their order.
    pub(crate) last: [u64; 2],
    /// Partitions that stop a direction now.
    pub(crate) stopped: [u32; 2],
    /// Nothing arrives before.
    pub(crate) clogged: [u64; 2],
}

fn key(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    fn link(&mut self, a: usize, b: usize) -> &mut Link {
        self.links.entry(key(a, b)).or_default()
    }

    /// Whether both directions are open.
    fn open(&mut self, a: usize, b: usize) -> bool {
        let apart = self.machines[a].blocked.contains(&b) || self.machines[b].blocked.contains(&a);
        !apart && self.link(a, b).stopped == [0, 0]
    }

    /// How long something takes on the way.
    fn way(&mut self, from: usize, to: usize, bytes: usize) -> u64 {
        let mean = self.plan.options.latency;
        let slow = self.machines[from].slow.max(self.machines[to].slow);
        let transfer = if slow > 1 {
            bytes as u64 * slow / 200
        } else {
            bytes as u64 / 10_000
        };
        1 + (mean + self.dice.tail(mean) / 4) * slow + transfer
    }

    /// Sends a frame within the session that the sender sees.
    pub(crate) fn fly(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        let Some(session) = self.machines[from].views.get(&to).copied() else {
            return;
        };
        let way = self.way(from, to, bytes.len());
        let now = self.now;
        let direction = usize::from(from > to);
        let link = self.link(from, to);
        if link.session != session {
            return;
        }
        if link.stopped[direction] > 0 {
            // One way only is stopped, or the end is not noticed yet: what is sent is lost.
            return;
        }
        let at = (now + way)
            .max(link.clogged[direction])
            .max(link.last[direction]);
        link.last[direction] = at;
        let options = &self.plan.options;
        let (loss, replay) = (options.loss, options.replay);
        if self.stormy && self.dice.chance(loss) {
            self.hit("lost frame");
            return self.cut(from, to);
        }
        if self.stormy && self.dice.chance(replay) {
            let after = self.dice.range(1, REPLAY_WITHIN);
            let bytes = bytes.clone();
            self.later(
                at - now + after,
                Happening::Frame {
                    from,
                    to,
                    session: 0,
                    bytes,
                    again: true,
                },
            );
        }
        self.later(
            at - now,
            Happening::Frame {
                from,
                to,
                session,
                bytes,
                again: false,
            },
        );
    }

    /// A frame is there, if its session still is. One that comes again comes in any later session.
    pub(crate) fn frame_arrives(
        &mut self,
        from: usize,
        to: usize,
        session: u64,
        bytes: Vec<u8>,
        again: bool,
    ) {
        let view = self.machines[to].views.get(&from).copied();
        let fits = if again {
            view.is_some()
        } else {
            view == Some(session)
        };
        if !fits || self.machines[to].standing != Standing::Up {
            return;
        }
        if again {
            self.hit("replayed frame");
        }
        let id = self.machines[from].id;
        match check::frame(id, &bytes, self.clock(to)) {
            Ok(arrival) => self.input(to, Input::Frame(id, Box::new(arrival))),
            Err(fault) => {
                self.fail(
                    "Q1",
                    format!(
                        "a frame of machine {from} does not check out at machine {to}: {fault}"
                    ),
                );
            }
        }
    }

    /// Begins to dial.
    pub(crate) fn dial(&mut self, from: usize, to: usize) {
        if self.machines[from].views.contains_key(&to) {
            return;
        }
        let at = self.age();
        self.trace
            .say(at, || format!("machine {from} dials machine {to}"));
        let life = self.machines[from].life;
        let reachable = self.machines[to].standing == Standing::Up && self.open(from, to);
        let after = if reachable {
            (2 * self.way(from, to, 0)).min(DIAL_WITHIN)
        } else {
            self.dice.range(20, DIAL_WITHIN)
        };
        self.later(after, Happening::Dial { from, life, to });
    }

    pub(crate) fn dial_ends(&mut self, from: usize, life: u64, to: usize) {
        if self.machines[from].life != life || self.machines[from].standing != Standing::Up {
            return;
        }
        if self.machines[to].standing != Standing::Up || !self.open(from, to) {
            let id = self.machines[to].id;
            return self.input(from, Input::Unreachable(id));
        }
        if self.machines[from].views.contains_key(&to) {
            return;
        }
        // A greeting from a new run, or from one that lost its session, replaces the old one.
        self.sessions += 1;
        let session = self.sessions;
        let now = self.now;
        let link = self.link(from, to);
        link.session = session;
        link.last = [now, now];
        self.notice(from, to, session, true);
        self.notice(to, from, session, true);
    }

    /// Ends a session; each side notices in its own time.
    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        let notice = self.plan.options.notice;
        let link = self.link(a, b);
        let session = link.session;
        if session == 0 {
            return;
        }
        link.session = 0;
        for (node, peer) in [(a, b), (b, a)] {
            let after = self.dice.below(notice + 1);
            self.later(
                after,
                Happening::Notice {
                    node,
                    peer,
                    session,
                    up: false,
                },
            );
        }
    }

    /// A side hears of a session.
    pub(crate) fn notice(&mut self, node: usize, peer: usize, session: u64, up: bool) {
        if self.machines[node].standing != Standing::Up {
            return;
        }
        let id = self.machines[peer].id;
        let seen = self.machines[node].views.get(&peer).copied();
        let at = self.age();
        self.trace.say(at, || {
            let how = if up { "has" } else { "loses" };
            format!("machine {node} {how} session {session} with machine {peer} (had {seen:?})")
        });
        if up {
            if seen.is_some() {
                self.input(node, Input::Disconnected(id));
            }
            self.machines[node].views.insert(peer, session);
            self.input(node, Input::Connected(id));
        } else if seen == Some(session) {
            self.machines[node].views.remove(&peer);
            self.input(node, Input::Disconnected(id));
        }
    }

    /// Stops or opens the way out of a set of machines, and into it unless one way only.
    pub(crate) fn partition(&mut self, side: u64, one_way: bool, on: bool) {
        let nodes = self.machines.len();
        let inside = |node: usize| side >> node & 1 == 1;
        for a in 0..nodes {
            for b in 0..nodes {
                if !inside(a) || inside(b) {
                    continue;
                }
                let out = usize::from(a > b);
                for direction in [Some(out), (!one_way).then_some(1 - out)]
                    .into_iter()
                    .flatten()
                {
                    let slot = &mut self.link(a, b).stopped[direction];
                    *slot = if on {
                        *slot + 1
                    } else {
                        slot.saturating_sub(1)
                    };
                }
                if on {
                    self.cut(a, b);
                }
            }
        }
    }

    /// Gossips a record to those that a machine has a session with.
    pub(crate) fn spread(&mut self, node: usize, but: Option<usize>, bytes: &Arc<Vec<u8>>) {
        let peers: Vec<usize> = self.machines[node].views.keys().copied().collect();
        for to in peers {
            if Some(to) != but {
                let after = self.way(node, to, bytes.len());
                let bytes = Arc::clone(bytes);
                self.later(
                    after,
                    Happening::Gossip {
                        from: node,
                        to,
                        bytes,
                    },
                );
            }
        }
    }

    pub(crate) fn gossip_arrives(&mut self, from: usize, to: usize, bytes: &Arc<Vec<u8>>) {
        if self.machines[to].standing != Standing::Up
            || !self.machines[to].views.contains_key(&from)
        {
            return;
        }
        let hash = crypto::hash("gossip", &[bytes.as_slice()]).0;
        if !self.machines[to].heard.insert(hash) {
            return;
        }
        let checked = check::gossip(bytes, self.clock(to))
            .map(Box::new)
            .map_err(|_| ());
        let machine = &mut self.machines[to];
        let ticket = machine.next_ticket;
        machine.next_ticket += 1;
        machine.tickets.insert(ticket, (from, Arc::clone(bytes)));
        self.input(to, Input::Gossip(ticket, checked));
    }

    pub(crate) fn judged(&mut self, node: usize, ticket: u64, verdict: Option<bool>) {
        if let Some((from, bytes)) = self.machines[node].tickets.remove(&ticket)
            && verdict == Some(true)
        {
            self.spread(node, Some(from), &bytes);
        }
    }
}
