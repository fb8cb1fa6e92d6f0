//! A payee's signed request to be paid. It can be checked without a node: the certificate of the device
//! that signed comes along.

use serde::{Deserialize, Serialize};

use super::{MAX_ORDER, MAX_PURPOSE};
use crate::codec::Wire;
use crate::crypto::{OpenError, Signable, Signed};
use crate::identity::DeviceCertificate;
use crate::types::{AccountId, Amount, Hash, Time, Unit};

/// The most neighbours that an invoice names.
pub const MAX_REACH: usize = 3;

/// A request to be paid. Its id is [`Signed::hash`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// The certificate of the payee's device, which signs the invoice.
    pub certificate: Signed<DeviceCertificate>,
    /// A number of the payee's that no other invoice of its has: openings are derived from it.
    pub nonce: [u8; 16],
    /// What amounts count in.
    pub unit: Unit,
    /// How much, in the unit's smallest part; `None` leaves it to the payer.
    pub amount: Option<Amount>,
    /// Many may pay it, each as often as they like: a counter, a donation box.
    pub standing: bool,
    /// What for, at most [`MAX_PURPOSE`] bytes; may be empty.
    pub purpose: String,
    /// The payee's own reference, at most [`MAX_ORDER`] bytes; may be empty.
    pub order: String,
    /// When it was made.
    pub created: Time,
    /// Until when it can be paid.
    pub expires: Time,
    /// Neighbours who pass payments on to the payee, at most [`MAX_REACH`], each once.
    pub reach: Vec<AccountId>,
}

impl Wire for Invoice {
    const NAME: &'static str = "an invoice";
    const MAX: usize = 1_280;
}

impl Signable for Invoice {
    const CONTEXT: &'static str = "invoice";
}

/// Why an invoice cannot be paid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvoiceFault {
    /// A signature or an encoding is wrong: it was changed on the way, or never signed.
    #[error("the invoice was changed or is not signed by its payee: {0}")]
    Open(#[from] OpenError),
    /// A field breaks its bounds.
    #[error("the invoice is malformed: {0}")]
    Malformed(&'static str),
    /// Its time passed.
    #[error("the invoice expired: ask the payee for a new one")]
    Expired,
    /// It asks for another amount.
    #[error("the invoice asks for {asked} {unit}, not {given}")]
    OtherAmount {
        /// What it asks for.
        asked: Amount,
        /// What was to be paid.
        given: Amount,
        /// The unit.
        unit: Unit,
    },
    /// It leaves the amount open, and none was given.
    #[error("the invoice leaves the amount open: say how much to pay")]
    NoAmount,
    /// An amount of 0.
    #[error("there is nothing to pay: the amount must be above 0")]
    Zero,
    /// The payer is the payee.
    #[error("this is your own invoice: you cannot pay yourself")]
    Own,
}

/// An invoice whose signatures and bounds were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payable {
    /// Its id.
    pub id: Hash,
    /// Who is to be paid.
    pub payee: AccountId,
    /// Its device that signed.
    pub certificate: DeviceCertificate,
    /// The invoice.
    pub invoice: Invoice,
}

impl Invoice {
    /// Checks signatures and bounds, not the time.
    ///
    /// # Errors
    /// [`InvoiceFault::Open`] or [`InvoiceFault::Malformed`].
    pub fn open(signed: &Signed<Self>) -> Result<Payable, InvoiceFault> {
        let claimed = signed.unverified().map_err(OpenError::from)?;
        let certificate = DeviceCertificate::open(&claimed.certificate)?;
        signed
            .check(&certificate.device.0)
            .map_err(OpenError::from)?;
        claimed.check()?;
        Ok(Payable {
            id: signed.hash(),
            payee: certificate.account,
            certificate,
            invoice: claimed,
        })
    }

    /// Checks the bounds of the fields.
    ///
    /// # Errors
    /// [`InvoiceFault::Malformed`] or [`InvoiceFault::Zero`].
    pub fn check(&self) -> Result<(), InvoiceFault> {
        let malformed = |why| Err(InvoiceFault::Malformed(why));
        if self.amount == Some(Amount::ZERO) {
            return Err(InvoiceFault::Zero);
        }
        if self.purpose.len() > MAX_PURPOSE {
            return malformed("its purpose is too long");
        }
        if self.order.len() > MAX_ORDER {
            return malformed("its order id is too long");
        }
        if self.expires < self.created {
            return malformed("it expires before it was made");
        }
        if self.reach.len() > MAX_REACH || !self.reach.is_sorted_by(|a, b| a < b) {
            return malformed("it names too many neighbours, or one twice");
        }
        Ok(())
    }
}

impl Payable {
    /// How much `payer` pays when it gives `amount` (or leaves it to the invoice).
    ///
    /// # Errors
    /// [`InvoiceFault`] says why it cannot be paid so, or not any more.
    pub fn amount_for(
        &self,
        payer: AccountId,
        amount: Option<Amount>,
        now: Time,
    ) -> Result<Amount, InvoiceFault> {
        if payer == self.payee {
            return Err(InvoiceFault::Own);
        }
        if now > self.invoice.expires {
            return Err(InvoiceFault::Expired);
        }
        match (self.invoice.amount, amount) {
            (_, Some(Amount::ZERO)) => Err(InvoiceFault::Zero),
            (Some(asked), Some(given)) if asked != given => Err(InvoiceFault::OtherAmount {
                asked,
                given,
                unit: self.invoice.unit.clone(),
            }),
            (Some(amount), _) | (None, Some(amount)) => Ok(amount),
            (None, None) => Err(InvoiceFault::NoAmount),
        }
    }
}
