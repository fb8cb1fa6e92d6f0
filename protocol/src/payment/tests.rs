//! Invoices, offers, ways and receipts, each changed in one place. Whole networks are in
//! `tests/payment_model/`.

use super::*;
use crate::codec::{decode, encode};
use crate::condition::Opening;
use crate::crypto::{Secret, Signed, SigningKey};
use crate::identity::{DeviceCertificate, Phrase, RootKeys};
use crate::line::{DebtId, Entry, NO_ENTRY, Operation, line_id};
use crate::types::{AccountId, Amount, DeviceKey, Hash, PaymentId, Time, Unit};

struct Person {
    root: RootKeys,
    device: SigningKey,
}

impl Person {
    fn new(n: u8) -> Self {
        Self {
            root: Phrase::from_entropy(&[n; 32]).keys(),
            device: SigningKey::from_seed(&[n; 32]),
        }
    }

    fn account(&self) -> AccountId {
        self.root.account()
    }

    fn certificate(&self) -> Signed<DeviceCertificate> {
        DeviceCertificate::issue(&self.root, DeviceKey(self.device.public()), 1)
    }
}

fn unit() -> Unit {
    "KRW".parse().unwrap()
}

fn invoice(shop: &Person) -> Invoice {
    Invoice {
        certificate: shop.certificate(),
        nonce: [5; 16],
        unit: unit(),
        amount: Some(Amount(15_000)),
        standing: false,
        purpose: "쌀 10 kg".into(),
        order: "2026-0042".into(),
        created: Time(1_000),
        expires: Time(9_000),
        reach: vec![AccountId([1; 32]), AccountId([2; 32])],
    }
}

fn offer(payer: &Person, shop: &Person, invoice: Option<Hash>) -> (Offer, Vec<Opening>) {
    let attempt = Hash([6; 32]);
    let secret = Secret([7; 32]);
    let openings: Vec<_> = (0..2).map(|n| opening_of(&secret, &attempt, n)).collect();
    let part = |(opening, amount): (&Opening, u64)| Part {
        condition: opening.condition(),
        amount: Amount(amount),
    };
    let offer = Offer {
        invoice,
        attempt,
        payer: payer.account(),
        payee: shop.account(),
        unit: unit(),
        parts: openings.iter().zip([10_000, 5_000]).map(part).collect(),
        purpose: "rice".into(),
        expires: Time(8_000),
    };
    (offer, openings)
}

#[test]
fn an_invoice_can_be_checked_without_a_node_and_not_be_changed() {
    let shop = Person::new(1);
    let signed = Signed::sign(&invoice(&shop), &shop.device);
    let payable = Invoice::open(&signed).unwrap();
    assert_eq!(payable.payee, shop.account());
    assert_eq!(payable.id, signed.hash());
    let bytes = encode(&signed);
    for at in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[at / 8] ^= 1 << (at % 8);
        let open = decode::<Signed<Invoice>>(&changed).map(|signed| Invoice::open(&signed));
        assert!(!matches!(open, Ok(Ok(_))), "bit {at}");
    }
}

#[test]
fn an_invoice_by_a_device_of_another_account_is_refused() {
    let (shop, thief) = (Person::new(1), Person::new(2));
    let signed = Signed::sign(&invoice(&shop), &thief.device);
    assert!(matches!(Invoice::open(&signed), Err(InvoiceFault::Open(_))));
}

#[test]
fn an_invoice_is_paid_in_full_in_time_and_not_by_its_payee() {
    let (shop, payer) = (Person::new(1), Person::new(2).account());
    let with = |change: &dyn Fn(&mut Invoice)| {
        let mut invoice = invoice(&shop);
        change(&mut invoice);
        Invoice::open(&Signed::sign(&invoice, &shop.device))
    };
    let fixed = with(&|_| {}).unwrap();
    let asked = Amount(15_000);
    assert_eq!(fixed.amount_for(payer, None, Time(2_000)), Ok(asked));
    assert_eq!(fixed.amount_for(payer, Some(asked), Time(9_000)), Ok(asked));
    assert_eq!(
        fixed.amount_for(payer, None, Time(9_001)),
        Err(InvoiceFault::Expired)
    );
    assert!(matches!(
        fixed.amount_for(payer, Some(Amount(14_999)), Time(2_000)),
        Err(InvoiceFault::OtherAmount { .. })
    ));
    assert_eq!(
        fixed.amount_for(shop.account(), None, Time(2_000)),
        Err(InvoiceFault::Own)
    );
    let open = with(&|invoice| invoice.amount = None).unwrap();
    assert_eq!(
        open.amount_for(payer, None, Time(2_000)),
        Err(InvoiceFault::NoAmount)
    );
    assert_eq!(
        open.amount_for(payer, Some(Amount(0)), Time(2_000)),
        Err(InvoiceFault::Zero)
    );
    assert_eq!(
        open.amount_for(payer, Some(Amount(u64::MAX)), Time(2_000)),
        Ok(Amount(u64::MAX))
    );
    let wrong: [&dyn Fn(&mut Invoice); 5] = [
        &|invoice| invoice.amount = Some(Amount(0)),
        &|invoice| invoice.purpose = "x".repeat(MAX_PURPOSE + 1),
        &|invoice| invoice.order = "x".repeat(MAX_ORDER + 1),
        &|invoice| invoice.expires = Time(999),
        &|invoice| invoice.reach.swap(0, 1),
    ];
    for change in wrong {
        assert!(with(change).is_err());
    }
    let largest = with(&|invoice| {
        invoice.purpose = "x".repeat(MAX_PURPOSE);
        invoice.order = "x".repeat(MAX_ORDER);
        invoice.reach.push(AccountId([3; 32]));
        invoice.unit = format!("{}@{}", "x".repeat(30), shop.account())
            .parse()
            .unwrap();
        invoice.expires = Time(u64::MAX);
    });
    assert!(largest.is_ok());
}

#[test]
fn a_way_carries_the_amount_and_each_hop_keeps_its_fee() {
    let account = |n: u8| AccountId([n; 32]);
    let hop = |n, base, per_million| Hop {
        account: account(n),
        unit: unit(),
        fee: Fee {
            base: Amount(base),
            per_million,
        },
    };
    let offer = Hash([8; 32]);
    let plan_of = |way: &[Hop], amount, most| {
        plan(
            account(0),
            way,
            Amount(amount),
            Amount(most),
            offer,
            Time(0),
        )
    };
    let way = [hop(1, 3, 10_000), hop(2, 5, 0), hop(3, 0, 0)];
    let planned = plan_of(&way, 10_000, 200).unwrap();
    // The last in the middle keeps 5, the one before 3 and 1 % of 10,005, rounded up.
    assert_eq!((planned.amount.0, planned.fees.0), (10_005 + 3 + 101, 109));
    let Instructions::PassOn(first) = decode(&planned.instructions).unwrap() else {
        panic!("the first hop passes on");
    };
    assert_eq!((first.next, first.amount.0), (account(2), 10_005));
    assert!(planned.until >= first.until.plus(HOLD_MARGIN));
    let Instructions::PassOn(second) = decode(&first.instructions).unwrap() else {
        panic!("the second hop passes on");
    };
    assert_eq!((second.next, second.amount.0), (account(3), 10_000));
    let last = decode::<Instructions>(&second.instructions).unwrap();
    assert_eq!(last, Instructions::Payee { offer });

    assert_eq!(plan_of(&[], 1, 0), Err(PlanFault::Empty));
    assert_eq!(plan_of(&way, 0, 9), Err(PlanFault::Zero));
    assert!(matches!(
        plan_of(&way, 10_000, 108),
        Err(PlanFault::Fees { .. })
    ));
    assert_eq!(plan_of(&way, u64::MAX, u64::MAX), Err(PlanFault::Overflow));
    let twice = [hop(1, 0, 0), hop(2, 0, 0), hop(1, 0, 0)];
    assert_eq!(plan_of(&twice, 1, 9), Err(PlanFault::Twice(account(1))));
    assert_eq!(
        plan_of(&[hop(0, 0, 0)], 1, 9),
        Err(PlanFault::Twice(account(0)))
    );
    let long: Vec<_> = (1..=21).map(|n| hop(n, 0, 0)).collect();
    assert_eq!(plan_of(&long, 1, 9), Err(PlanFault::TooLong(21)));
    assert!(plan_of(&long[..20], 1, 9).is_ok(), "twenty hops fit");
    let mut mixed = way.to_vec();
    mixed[0].unit = "USD".parse().unwrap();
    assert!(matches!(plan_of(&mixed, 1, 9), Err(PlanFault::Units(..))));
}

#[test]
fn a_receipt_proves_what_was_paid_and_nothing_else() {
    let (payer, shop) = (Person::new(2), Person::new(1));
    let invoice = Signed::sign(&invoice(&shop), &shop.device);
    let (offer, openings) = offer(&payer, &shop, Some(invoice.hash()));
    let receipt = |offer: &Offer, openings: &[Opening], invoice: Option<&Signed<Invoice>>| {
        let receipt = Receipt::Opened {
            certificate: shop.certificate(),
            offer: Signed::sign(offer, &shop.device),
            openings: openings.to_vec(),
            invoice: invoice.cloned(),
        };
        assert_eq!(decode::<Receipt>(&encode(&receipt)), Ok(receipt.clone()));
        receipt.check()
    };
    let paid = receipt(&offer, &openings, Some(&invoice)).unwrap();
    assert_eq!((paid.amount.0, paid.order.as_str()), (15_000, "2026-0042"));
    assert_eq!((paid.payer, paid.payee), (payer.account(), shop.account()));

    assert!(receipt(&offer, &openings[..1], Some(&invoice)).is_err());
    assert!(receipt(&offer, &[], Some(&invoice)).is_err());
    let turned = [openings[1], openings[0]];
    assert!(receipt(&offer, &turned, Some(&invoice)).is_err());
    assert!(receipt(&offer, &openings, None).is_err());
    let mut less = offer.clone();
    less.parts[1].amount = Amount(4_999);
    assert!(receipt(&less, &openings, Some(&invoice)).is_err());
    let mut other = offer.clone();
    other.payee = payer.account();
    assert!(receipt(&other, &openings, Some(&invoice)).is_err());
    let mut none = offer;
    none.parts.clear();
    assert!(receipt(&none, &[], Some(&invoice)).is_err());
}

#[test]
fn an_iou_and_its_acceptance_are_a_receipt() {
    let (payer, shop) = (Person::new(2), Person::new(1));
    let (a, b) = (payer.account(), shop.account());
    let entry = |author, counterparty, operation| Entry {
        line: line_id(a, b, &unit()),
        unit: unit(),
        author,
        counterparty,
        certificate: Hash([1; 32]),
        sequence: 1,
        previous: NO_ENTRY,
        seen: None,
        time: Time(5),
        operation,
    };
    let id = PaymentId([3; 32]);
    let iou = Operation::Iou {
        id,
        amount: Amount(700),
        purpose: "lunch".into(),
    };
    let iou = Signed::sign(&entry(a, b, iou), &payer.device);
    let accepts = |id| {
        let debts = vec![DebtId::Iou(id)];
        Signed::sign(&entry(b, a, Operation::Accept { debts }), &shop.device)
    };
    let receipt = |accept| Receipt::Accepted {
        payer: payer.certificate(),
        payee: shop.certificate(),
        iou: iou.clone(),
        accept,
    };
    let paid = receipt(accepts(id)).check().unwrap();
    assert_eq!((paid.amount.0, paid.purpose.as_str()), (700, "lunch"));
    assert!(receipt(accepts(PaymentId([4; 32]))).check().is_err());
    // Accepted by the payer itself.
    let debts = vec![DebtId::Iou(id)];
    let own = Signed::sign(&entry(a, b, Operation::Accept { debts }), &payer.device);
    assert!(receipt(own).check().is_err());
}

#[test]
fn a_cancelled_condition_that_was_opened_is_fraud_and_another_one_is_not() {
    let (payer, shop) = (Person::new(2), Person::new(1));
    let (offer, openings) = offer(&payer, &shop, None);
    let conditions = offer.parts.iter().map(|part| part.condition).collect();
    let cancellation = Cancellation {
        offer: Hash([9; 32]),
        conditions,
    };
    let fraud = |opening| Fraud {
        cancellation: Signed::sign(&cancellation, &shop.device),
        opening,
    };
    assert!(fraud(openings[1]).check(&shop.device.public()).is_ok());
    assert!(fraud(openings[1]).check(&payer.device.public()).is_err());
    let other = Opening::Preimage([1; 32]);
    assert_eq!(
        fraud(other).check(&shop.device.public()),
        Err(OfferFault::Elsewhere)
    );
}

#[test]
fn parts_of_an_offer_are_sound_and_their_openings_differ() {
    let (payer, shop) = (Person::new(2), Person::new(1));
    let (sound, openings) = offer(&payer, &shop, None);
    assert_eq!(sound.check(), Ok(Amount(15_000)));
    assert_eq!(sound.part_of(&openings[1]), Some(1));
    assert_eq!(sound.part_of(&Opening::Preimage([1; 32])), None);
    let wrong: [&dyn Fn(&mut Offer); 5] = [
        &|offer| offer.parts.clear(),
        &|offer| offer.parts[0].amount = Amount(0),
        &|offer| offer.parts[1].condition = offer.parts[0].condition,
        &|offer| offer.parts[0].amount = Amount(u64::MAX),
        &|offer| offer.purpose = "x".repeat(MAX_PURPOSE + 1),
    ];
    for change in wrong {
        let mut offer = sound.clone();
        change(&mut offer);
        assert_eq!(offer.check(), Err(OfferFault::Parts));
    }
    let secret = Secret([7; 32]);
    let other = opening_of(&secret, &Hash([1; 32]), 0);
    assert!(other != openings[0] && openings[0] != openings[1]);
}
