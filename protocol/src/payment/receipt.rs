//! Proof of payment: what shows anybody, without a node, that a payee got its money.

use serde::{Deserialize, Serialize};

use super::invoice::{Invoice, InvoiceFault};
use super::offer::{Offer, OfferFault};
use crate::codec::Wire;
use crate::condition::Opening;
use crate::crypto::{OpenError, Signed};
use crate::identity::DeviceCertificate;
use crate::line::{DebtId, Entry, Operation};
use crate::types::{AccountId, Amount, Hash, Time, Unit};

/// A proof of payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Receipt {
    /// Over locks: the payee's offer, and what it opened.
    Opened {
        /// The certificate of the device that signed the offer.
        certificate: Signed<DeviceCertificate>,
        /// What was offered.
        offer: Signed<Offer>,
        /// The openings of all parts, in their order.
        openings: Vec<Opening>,
        /// The invoice that the offer names, if it names one.
        invoice: Option<Signed<Invoice>>,
    },
    /// By an IOU on a line that payer and payee share: the IOU and its acceptance.
    Accepted {
        /// The certificate of the payer's device.
        payer: Signed<DeviceCertificate>,
        /// The certificate of the payee's device.
        payee: Signed<DeviceCertificate>,
        /// The payer's IOU.
        iou: Signed<Entry>,
        /// The payee's acceptance.
        accept: Signed<Entry>,
    },
}

impl Wire for Receipt {
    const NAME: &'static str = "a receipt";
    const MAX: usize = 12 * 1024;
}

/// Why a receipt proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptFault {
    /// A signature or an encoding is wrong.
    #[error("a signature does not hold: {0}")]
    Open(#[from] OpenError),
    /// The invoice is not sound.
    #[error(transparent)]
    Invoice(#[from] InvoiceFault),
    /// The offer is not sound.
    #[error(transparent)]
    Offer(#[from] OfferFault),
    /// Openings are missing, wrong, or in another order.
    #[error("the openings are not those of the offer")]
    Openings,
    /// The parts of the receipt speak of different things.
    #[error("the parts of the receipt do not belong together: {0}")]
    Apart(&'static str),
}

/// What a receipt proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paid {
    /// Who paid.
    pub payer: AccountId,
    /// Who was paid.
    pub payee: AccountId,
    /// How much, in the unit's smallest part.
    pub amount: Amount,
    /// The unit.
    pub unit: Unit,
    /// What for.
    pub purpose: String,
    /// The invoice that was paid.
    pub invoice: Option<Hash>,
    /// The payee's own reference on that invoice.
    pub order: String,
    /// When the payee signed, by its clock: of an offer, until when it stood.
    pub time: Time,
}

impl Receipt {
    /// Checks everything; nothing but the receipt is needed.
    ///
    /// # Errors
    /// [`ReceiptFault`] says what does not hold.
    pub fn check(&self) -> Result<Paid, ReceiptFault> {
        match self {
            Self::Opened {
                certificate,
                offer,
                openings,
                invoice,
            } => opened(certificate, offer, openings, invoice.as_ref()),
            Self::Accepted {
                payer,
                payee,
                iou,
                accept,
            } => accepted(payer, payee, iou, accept),
        }
    }
}

fn opened(
    certificate: &Signed<DeviceCertificate>,
    offer: &Signed<Offer>,
    openings: &[Opening],
    invoice: Option<&Signed<Invoice>>,
) -> Result<Paid, ReceiptFault> {
    let certificate = DeviceCertificate::open(certificate)?;
    let offer = offer.open(&certificate.device.0)?;
    let amount = offer.check()?;
    if offer.payee != certificate.account {
        return Err(ReceiptFault::Apart("the offer is of another account"));
    }
    let mut parts = offer.parts.iter();
    let mut all = openings
        .iter()
        .map(|opening| Some(opening.condition()) == parts.next().map(|part| part.condition));
    if !all.all(|fits| fits) || openings.len() != offer.parts.len() {
        return Err(ReceiptFault::Openings);
    }
    let mut order = String::new();
    if offer.invoice != invoice.map(Signed::hash) {
        return Err(ReceiptFault::Apart("the offer names another invoice"));
    }
    if let Some(signed) = invoice {
        let payable = Invoice::open(signed)?;
        if payable.payee != offer.payee || payable.invoice.unit != offer.unit {
            return Err(ReceiptFault::Apart(
                "invoice and offer are of different payees or units",
            ));
        }
        if payable.invoice.amount.is_some_and(|asked| asked > amount) {
            return Err(ReceiptFault::Apart("less was paid than the invoice asks"));
        }
        order = payable.invoice.order;
    }
    Ok(Paid {
        payer: offer.payer,
        payee: offer.payee,
        amount,
        unit: offer.unit,
        purpose: offer.purpose,
        invoice: offer.invoice,
        order,
        time: offer.expires,
    })
}

fn accepted(
    payer: &Signed<DeviceCertificate>,
    payee: &Signed<DeviceCertificate>,
    iou: &Signed<Entry>,
    accept: &Signed<Entry>,
) -> Result<Paid, ReceiptFault> {
    let (payer, payee) = (
        DeviceCertificate::open(payer)?,
        DeviceCertificate::open(payee)?,
    );
    let iou = iou.open(&payer.device.0)?;
    let accept = accept.open(&payee.device.0)?;
    if iou.check().is_err() || accept.check().is_err() || iou.line != accept.line {
        return Err(ReceiptFault::Apart("the entries are not of one line"));
    }
    let pair = (payer.account, payee.account);
    if (iou.author, iou.counterparty) != pair || accept.author != payee.account {
        return Err(ReceiptFault::Apart("the entries are by others"));
    }
    let Operation::Iou {
        id,
        amount,
        purpose,
    } = iou.operation
    else {
        return Err(ReceiptFault::Apart("the payer's entry is no IOU"));
    };
    match accept.operation {
        Operation::Accept { debts } if debts.contains(&DebtId::Iou(id)) => Ok(Paid {
            payer: payer.account,
            payee: payee.account,
            amount,
            unit: iou.unit,
            purpose,
            invoice: None,
            order: String::new(),
            time: accept.time,
        }),
        _ => Err(ReceiptFault::Apart("the payee did not accept this IOU")),
    }
}
