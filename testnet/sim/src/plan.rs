//! What a seed means: the size of the world, which kinds of faults there are and how often, every
//! operation of every person, every fault with its time. A plan is data: shrinking takes parts out.

use std::fmt;

use crate::dice::Dice;

/// How a run is sized and which kinds of faults it has (swarm testing: each kind is on in half of the
/// seeds, its rate drawn per seed).
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) nodes: usize,
    pub(crate) buildings: usize,
    pub(crate) operators: usize,
    pub(crate) accounts: usize,
    /// Contacts that each account makes, besides those who come to it.
    pub(crate) contacts: usize,
    pub(crate) operations: usize,
    /// Length of the safety phase in milliseconds.
    pub(crate) length: u64,
    /// vodozemac instead of the stand-in.
    pub(crate) real_ratchet: bool,
    /// Milliseconds between ticks.
    pub(crate) tick: u64,
    /// A step waits at most so many milliseconds, and takes what has come meanwhile.
    pub(crate) commit: u64,
    /// Mean latency in milliseconds.
    pub(crate) latency: u64,
    /// Of a thousand frames, how many are lost with their session.
    pub(crate) loss: u64,
    /// Of a thousand frames, how many come again later.
    pub(crate) replay: u64,
    /// A cut session is noticed after at most so many milliseconds.
    pub(crate) notice: u64,
    /// Clocks are off by at most so many milliseconds.
    pub(crate) skew: u64,
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
    pub(crate) partitions: u64,
    pub(crate) slow: u64,
    pub(crate) clogs: u64,
    pub(crate) pauses: u64,
    pub(crate) dark: u64,
    pub(crate) clock_jumps: u64,
    /// A keeper that is silent for so many milliseconds is replaced.
    pub(crate) replace_after: u64,
    /// The one building whose loss the promise covers: what destroys or lies happens only there.
    pub(crate) cursed: usize,
    pub(crate) burn: bool,
    pub(crate) lost_disks: u64,
    pub(crate) rollbacks: u64,
    pub(crate) liars: bool,
    /// People who take a second keeper in one building.
    pub(crate) second_keepers: u64,
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} nodes, {} buildings, {} operators, {} accounts, {} operations in {} s, {} ratchet; \
             tick {} ms, commit {} ms, latency {} ms, loss {}/1000, replay {}/1000, notice {} ms, \
             skew {} ms; crashes {}, cuts {}, partitions {}, slow {}, clogs {}, pauses {}, dark {}, \
             clock jumps {}; cursed building {}: burn {}, lost disks {}, rollbacks {}, liars {}; \
             second keepers in one building {}",
            self.nodes,
            self.buildings,
            self.operators,
            self.accounts,
            self.operations,
            self.length / 1_000,
            if self.real_ratchet {
                "real"
            } else {
                "stand-in"
            },
            self.tick,
            self.commit,
            self.latency,
            self.loss,
            self.replay,
            self.notice,
            self.skew,
            self.crashes,
            self.cuts,
            self.partitions,
            self.slow,
            self.clogs,
            self.pauses,
            self.dark,
            self.clock_jumps,
            self.cursed,
            self.burn,
            self.lost_disks,
            self.rollbacks,
            self.liars,
            self.second_keepers,
        )
    }
}

impl Options {
    /// The options of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "options");
        let buildings = 3 + dice.index(3);
        let nodes = 9 + dice.index(3);
        let on = |dice: &mut Dice| dice.chance(500);
        let some = |dice: &mut Dice, low: u64, high: u64| {
            let drawn = dice.range(low, high);
            if on(dice) { drawn } else { 0 }
        };
        Self {
            nodes,
            buildings,
            operators: 3 + dice.index(buildings - 2),
            accounts: 30,
            contacts: 2,
            operations: 600,
            length: dice.range(60_000, 120_000),
            real_ratchet: dice.chance(125),
            tick: [250, 500, 1_000][dice.index(3)],
            commit: dice.range(1, 20),
            latency: [2, 10, 40, 150, 400][dice.index(5)],
            loss: some(&mut dice, 1, 12),
            replay: some(&mut dice, 5, 100),
            notice: [50, 2_000, 15_000][dice.index(3)],
            skew: some(&mut dice, 1_000, 600_000),
            crashes: some(&mut dice, 2, 20),
            cuts: some(&mut dice, 5, 60),
            partitions: some(&mut dice, 1, 5),
            slow: some(&mut dice, 1, 4),
            clogs: some(&mut dice, 1, 8),
            pauses: some(&mut dice, 1, 4),
            dark: some(&mut dice, 1, 2),
            clock_jumps: some(&mut dice, 1, 4),
            replace_after: dice.range(15_000, 60_000),
            cursed: dice.index(buildings),
            burn: on(&mut dice),
            lost_disks: some(&mut dice, 1, 1),
            rollbacks: some(&mut dice, 1, 2),
            liars: on(&mut dice),
            second_keepers: some(&mut dice, 1, 6),
        }
    }
}

/// What a person does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Writes to a contact (by its place among the person's contacts).
    Text { contact: usize },
    /// Pays a contact.
    Pay { contact: usize, amount: u64 },
    /// Sets how much a contact may owe.
    Limit { contact: usize, amount: u64 },
    /// Marks a contact's messages as read.
    Read { contact: usize },
    /// Blocks a contact, and lets it in again later.
    Block { contact: usize, on: bool },
    /// Meets somebody new.
    Meet { whom: usize },
    /// Asks another node to keep as well, in a building where a keeper stands already.
    Keeper,
}

/// One operation.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) number: usize,
    pub(crate) at: u64,
    pub(crate) who: usize,
    pub(crate) act: Act,
    /// Given with a key, so that it may be repeated.
    pub(crate) key: bool,
    /// Repeated at once, though it was answered.
    pub(crate) twice: bool,
}

/// Where a crash falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// In the step: nothing of it is committed.
    BeforeCommit,
    /// After the commit, before any effect.
    AfterCommit,
    /// After some effects.
    AmongEffects,
    /// Between steps.
    Idle,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wrong {
    Crash {
        node: usize,
        point: Point,
        down: u64,
    },
    Cut {
        a: usize,
        b: usize,
    },
    /// Nodes by bit; `one_way`: only what leaves the set is stopped.
    Partition {
        side: u64,
        one_way: bool,
        lasts: u64,
    },
    Slow {
        node: usize,
        factor: u64,
        lasts: u64,
    },
    Clog {
        from: usize,
        to: usize,
        lasts: u64,
    },
    Pause {
        node: usize,
        lasts: u64,
    },
    Dark {
        building: usize,
        lasts: u64,
    },
    Clock {
        node: usize,
        by: i64,
    },
    Burn {
        building: usize,
    },
    LostDisk {
        node: usize,
    },
    Snapshot {
        node: usize,
    },
    Rollback {
        node: usize,
        down: u64,
    },
    Liar {
        node: usize,
    },
}

/// One fault.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) at: u64,
    pub(crate) wrong: Wrong,
}

/// The whole plan of a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) options: Options,
    pub(crate) operations: Vec<Operation>,
    pub(crate) faults: Vec<Fault>,
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        Self::with(seed, Options::of(seed))
    }

    /// The same with fewer people, who do less in a shorter time: for tests.
    pub(crate) fn small(seed: u64) -> Self {
        let mut options = Options::of(seed);
        options.accounts = 12;
        options.operations = 150;
        options.length = 30_000;
        Self::with(seed, options)
    }

    fn with(seed: u64, options: Options) -> Self {
        let operations = operations(seed, &options);
        let faults = faults(seed, &options);
        Self {
            seed,
            options,
            operations,
            faults,
        }
    }
}

/// The building of a node.
pub(crate) fn building_of(node: usize, options: &Options) -> usize {
    node % options.buildings
}

fn operations(seed: u64, options: &Options) -> Vec<Operation> {
    let mut dice = Dice::new(seed, "operations");
    let mut list = Vec::new();
    for number in 0..options.operations {
        let contact = dice.index(64);
        let act = match dice.below(100) {
            0..52 => Act::Text { contact },
            52..90 => Act::Pay {
                contact,
                // Small ones, and now and then more than any limit.
                amount: if dice.chance(50) {
                    dice.range(1_000, 100_000)
                } else {
                    dice.range(1, 400)
                },
            },
            90..93 => Act::Limit {
                contact,
                amount: dice.range(0, 6_000),
            },
            93..96 => Act::Read { contact },
            96..97 => Act::Block { contact, on: true },
            97..99 => Act::Block { contact, on: false },
            _ => Act::Meet {
                whom: dice.index(options.accounts),
            },
        };
        list.push(Operation {
            number,
            at: dice.below(options.length),
            who: dice.index(options.accounts),
            act,
            key: matches!(act, Act::Pay { .. }) || dice.chance(700),
            twice: dice.chance(60),
        });
    }
    for _ in 0..options.second_keepers {
        let (at, who) = (dice.below(options.length / 2), dice.index(options.accounts));
        let number = list.len();
        list.push(Operation {
            number,
            at,
            who,
            act: Act::Keeper,
            key: false,
            twice: false,
        });
    }
    list.sort_by_key(|operation| (operation.at, operation.number));
    list
}

fn faults(seed: u64, options: &Options) -> Vec<Fault> {
    let mut dice = Dice::new(seed, "faults");
    let mut list = Vec::new();
    let nodes = options.nodes;
    let length = options.length;
    let lasts = |dice: &mut Dice| dice.range(1_000, 40_000);
    let mut add = |at: u64, wrong: Wrong| list.push(Fault { at, wrong });
    for _ in 0..options.crashes {
        let point = [
            Point::BeforeCommit,
            Point::AfterCommit,
            Point::AmongEffects,
            Point::Idle,
        ][dice.index(4)];
        let down = if dice.chance(300) {
            0
        } else {
            dice.range(100, 30_000)
        };
        add(
            dice.below(length),
            Wrong::Crash {
                node: dice.index(nodes),
                point,
                down,
            },
        );
    }
    for _ in 0..options.cuts {
        add(
            dice.below(length),
            Wrong::Cut {
                a: dice.index(nodes),
                b: dice.index(nodes),
            },
        );
    }
    for _ in 0..options.partitions {
        let side = match dice.below(3) {
            0 => dice.any(),
            1 => 1 << dice.index(nodes),
            _ => {
                let building = dice.index(options.buildings);
                (0..nodes)
                    .filter(|node| building_of(*node, options) == building)
                    .fold(0, |side, node| side | 1 << node)
            }
        };
        let one_way = dice.chance(300);
        let lasts = lasts(&mut dice);
        add(
            dice.below(length),
            Wrong::Partition {
                side,
                one_way,
                lasts,
            },
        );
    }
    for _ in 0..options.slow {
        let (node, factor) = (dice.index(nodes), dice.range(5, 40));
        let lasts = lasts(&mut dice);
        add(
            dice.below(length),
            Wrong::Slow {
                node,
                factor,
                lasts,
            },
        );
    }
    for _ in 0..options.clogs {
        let (from, to, lasts) = (dice.index(nodes), dice.index(nodes), lasts(&mut dice));
        add(dice.below(length), Wrong::Clog { from, to, lasts });
    }
    for _ in 0..options.pauses {
        let (node, lasts) = (dice.index(nodes), lasts(&mut dice));
        add(dice.below(length), Wrong::Pause { node, lasts });
    }
    for _ in 0..options.dark {
        let (building, lasts) = (dice.index(options.buildings), lasts(&mut dice));
        add(dice.below(length), Wrong::Dark { building, lasts });
    }
    for _ in 0..options.clock_jumps {
        let node = dice.index(nodes);
        let by = i64::try_from(dice.range(1_000, 6 * 3_600_000)).unwrap_or(0);
        let by = if dice.chance(500) { by } else { -by };
        add(dice.below(length), Wrong::Clock { node, by });
    }
    let cursed: Vec<usize> = (0..nodes)
        .filter(|node| building_of(*node, options) == options.cursed)
        .collect();
    // One keeper that lies and one that loses its disk are more than the promise covers.
    if options.liars && options.lost_disks + options.rollbacks == 0 {
        let node = cursed[dice.index(cursed.len())];
        add(0, Wrong::Liar { node });
    }
    for _ in 0..options.rollbacks {
        let node = cursed[dice.index(cursed.len())];
        let at = dice.below(length * 3 / 4);
        let back = at + dice.range(1_000, length / 4);
        let down = dice.range(0, 10_000);
        add(at, Wrong::Snapshot { node });
        add(back, Wrong::Rollback { node, down });
    }
    for _ in 0..options.lost_disks {
        let node = cursed[dice.index(cursed.len())];
        add(dice.below(length), Wrong::LostDisk { node });
    }
    if options.burn {
        add(
            dice.range(length / 4, length),
            Wrong::Burn {
                building: options.cursed,
            },
        );
    }
    list.sort_by_key(|fault| fault.at);
    list
}
