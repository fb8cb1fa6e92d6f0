//! How each planned fault happens, and how everything is healed for the liveness phase.

use crate::disk;
use crate::plan::{Point, Wrong, building_of};
use crate::world::{Happening, Standing, World};

impl World {
    /// Lets a planned fault happen.
    pub(crate) fn go_wrong(&mut self, place: usize) {
        let Some(fault) = self.plan.faults.get(place) else {
            return;
        };
        let wrong = fault.wrong.clone();
        if !self.stormy {
            return;
        }
        let at = self.age();
        self.trace.say(at, || format!("fault: {wrong:?}"));
        match wrong {
            Wrong::Crash { node, point, down } => self.crash(node, point, down),
            Wrong::Cut { a, b } => {
                if a != b {
                    self.hit("cut session");
                    self.cut(a, b);
                }
            }
            Wrong::Partition {
                side,
                one_way,
                lasts,
            } => {
                self.hit(if one_way {
                    "one-way partition"
                } else {
                    "partition"
                });
                self.partition(side, one_way, true);
                self.later(lasts, Happening::Heal { side, one_way });
            }
            Wrong::Slow {
                node,
                factor,
                lasts,
            } => {
                self.hit("slow machine");
                self.machines[node].slow *= factor;
                self.later(lasts, Happening::Quick { node, factor });
            }
            Wrong::Clog { from, to, lasts } => {
                self.hit("clogged direction");
                let until = self.now + lasts;
                let key = (from.min(to), from.max(to));
                let direction = usize::from(from > to);
                let clogged = &mut self.links.entry(key).or_default().clogged[direction];
                *clogged = until.max(*clogged);
            }
            Wrong::Pause { node, lasts } => {
                self.hit("paused machine");
                self.machines[node].paused = self.now + lasts;
            }
            Wrong::Dark { building, lasts } => {
                self.hit("dark building");
                for node in self.in_building(building) {
                    if self.machines[node].standing == Standing::Up {
                        self.stop(node);
                        // All return at once.
                        self.later(lasts, Happening::Start { node });
                    }
                }
            }
            Wrong::Clock { node, by } => {
                self.hit("clock jump");
                let machine = &mut self.machines[node];
                machine.skew += by;
                machine.ahead = machine.ahead.max(machine.skew);
            }
            Wrong::Burn { building } => {
                self.hit("burned building");
                for node in self.in_building(building) {
                    self.destroy(node);
                }
            }
            Wrong::LostDisk { node } => {
                self.hit("lost disk");
                self.destroy(node);
            }
            Wrong::Snapshot { node } => {
                let copy = self.machines[node]
                    .committed()
                    .and_then(|db| disk::copy(db).ok());
                self.machines[node].snapshot = copy;
            }
            Wrong::Rollback { node, down } => self.roll_back(node, down),
            Wrong::Liar { node } => {
                self.hit("lying keeper");
                self.machines[node].liar = true;
            }
        }
    }

    /// The machines of a building.
    pub(crate) fn in_building(&self, building: usize) -> Vec<usize> {
        (0..self.machines.len())
            .filter(|node| building_of(*node, &self.plan.options) == building)
            .collect()
    }

    fn crash(&mut self, node: usize, point: Point, down: u64) {
        if self.machines[node].standing != Standing::Up {
            return;
        }
        if point == Point::Idle {
            self.hit("crash between steps");
            self.stop(node);
            self.later(down, Happening::Start { node });
        } else {
            self.machines[node].crash = Some((point, down));
        }
    }

    /// A machine and its disk are gone for ever.
    fn destroy(&mut self, node: usize) {
        if self.machines[node].standing == Standing::Gone {
            return;
        }
        self.lose_invitations_of(node);
        self.stop(node);
        let machine = &mut self.machines[node];
        machine.standing = Standing::Gone;
        machine.disk = None;
        machine.snapshot = None;
        self.lose_people_of(node);
    }

    /// A machine comes back with an older copy of its disk.
    fn roll_back(&mut self, node: usize, down: u64) {
        if self.machines[node].standing == Standing::Gone || self.machines[node].snapshot.is_none()
        {
            return;
        }
        self.hit("rolled-back disk");
        self.lose_invitations_of(node);
        self.stop(node);
        let machine = &mut self.machines[node];
        machine.disk = machine.snapshot.take();
        machine.set_back = true;
        self.set_back(node);
        for person in 0..self.people.len() {
            if self.people[person].node == node {
                self.later(down + 1_000, Happening::Level { person });
            }
        }
        self.later(down, Happening::Start { node });
    }

    /// A lying keeper throws away what it has just signed for.
    pub(crate) fn lie(&mut self, node: usize) {
        if !self.machines[node].liar {
            return;
        }
        if let Some(engine) = &self.machines[node].engine {
            let own: Vec<String> = engine
                .own_accounts()
                .map(|(id, _)| format!("x'{}'", data_encoding::HEXLOWER.encode(&id.0)))
                .collect();
            for table in ["envelopes", "pages"] {
                let sql = format!(
                    "DELETE FROM {table} WHERE mailbox NOT IN ({})",
                    own.join(",")
                );
                let _ = engine.disk().execute(&sql, []);
            }
        }
    }

    /// The storm is over: links are whole, machines run, clocks are right, nobody lies any more.
    pub(crate) fn heal(&mut self) {
        self.stormy = false;
        let now = self.now;
        for link in self.links.values_mut() {
            link.stopped = [0, 0];
            link.clogged = [0, 0];
            link.last = [link.last[0].min(now + 1_000), link.last[1].min(now + 1_000)];
        }
        for node in 0..self.machines.len() {
            let machine = &mut self.machines[node];
            machine.slow = 1;
            machine.paused = 0;
            machine.crash = None;
            self.start(node);
        }
    }
}
