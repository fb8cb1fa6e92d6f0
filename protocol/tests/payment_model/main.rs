//! Payments over several hands, with everything that may go wrong on the way: silent hops, late and early
//! openings, limits lowered under way, a payee that cancels and opens all the same, devices that were
//! restored. Whatever happens: nobody in the middle ends below where it began, an honest payee is paid in
//! full or not at all, and nobody's money appears or disappears.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that is wrong may panic"
)]

use proptest::prelude::*;

mod account;
mod world;

use world::{Act, World};

/// What may happen besides what honest programs do by themselves.
fn acts(faults: bool) -> impl Strategy<Value = Vec<(Act, u8, u16)>> {
    let calm = prop_oneof![
        6 => Just(Act::Deliver),
        5 => Just(Act::Step),
        2 => Just(Act::Pay),
        1 => Just(Act::Wait),
    ];
    let wild = prop_oneof![
        8 => Just(Act::Deliver),
        6 => Just(Act::Step),
        2 => Just(Act::Pay),
        1 => Just(Act::Wait),
        1 => Just(Act::Silence),
        1 => Just(Act::Cancel),
        1 => Just(Act::Leak),
        1 => Just(Act::LowerLimit),
        1 => Just(Act::Restore),
    ];
    let act = if faults { wild.boxed() } else { calm.boxed() };
    prop::collection::vec((act, any::<u8>(), any::<u16>()), 0..160)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn in_calm_every_payment_that_found_room_arrives(acts in acts(false)) {
        let mut world = World::new(4);
        world.run(&acts);
        world.rest();
        world.check();
        world.check_all_or_none();
    }

    #[test]
    fn nobody_in_the_middle_loses_whatever_happens(acts in acts(true)) {
        let mut world = World::new(4);
        world.run(&acts);
        world.rest();
        world.check();
    }
}

#[test]
fn all_in_the_middle_silent_after_they_accepted_and_all_is_settled_when_they_return() {
    for seed in 0..200_u16 {
        let mut world = World::new(5);
        world.pay(100);
        world.until_the_payee_accepted();
        // Everybody in the middle is gone; only the payee acts.
        world.only(4);
        world.rest_of_those_awake();
        assert_eq!(world.received(), 100);
        world.wake_in_order(seed);
        world.rest();
        world.check();
        world.check_all_or_none();
        assert_eq!(world.net(0), -(100 + 3));
    }
}

#[test]
fn a_payee_that_cancels_and_opens_all_the_same_hurts_nobody_in_the_middle() {
    for seed in 0..200_u16 {
        let mut world = World::new(5);
        world.pay(100);
        world.until_the_payee_accepted();
        world.cancel_and_leak(seed);
        world.rest();
        world.check();
        assert!(world.fraud_is_proven());
    }
}
