//! Samples of the archive and the locator.

use pumasi_protocol::archive::{
    ArchivedText, Call, CheckedVolume, Mark, Page, PageKeys, Record, Records, SUITE, Volume, close,
    page_id,
};
use pumasi_protocol::codec::{self, Bytes};
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::envelope::SealFor;
use pumasi_protocol::locator::{self, Locator, Whereabouts};
use pumasi_protocol::seal;
use pumasi_protocol::types::EnvelopeId;

use super::{EPOCH, HANA, NONCE, NOW, VERSION, contents, filler};

/// The head of Hana's volume.
pub(crate) fn volume() -> CheckedVolume {
    CheckedVolume::check(HANA.by_device(&head().0)).unwrap()
}

fn head() -> (Volume, PageKeys) {
    let keys = HANA.keys();
    let public = seal::public_key(&keys.recovery);
    let account = HANA.account();
    let (key, link) =
        seal::agree(&public, SealFor::Archive, &account, &account, &[0x68; 32]).unwrap();
    let volume = Volume {
        certificate: HANA.certificate(),
        key,
    };
    (volume, PageKeys::first(link))
}

/// What the sample page holds.
pub(crate) fn records() -> Records {
    let (_, text) = contents().swap_remove(0);
    Records(vec![
        Record::Name("Hana".into()),
        Record::Text(Box::new(ArchivedText {
            content: codec::encode(&text).into(),
            shown: NOW,
            mark: Some(Mark::Safe),
            call: Some(Call {
                key: "tea-1".into(),
                request: filler(0xb1),
            }),
        })),
    ])
}

/// Her first page.
pub(crate) fn page() -> Signed<Page> {
    let (_, keys) = head();
    let page = Page {
        suite: SUITE,
        account: HANA.account(),
        epoch: EPOCH,
        number: keys.number,
        replaces: None,
        covers: vec![EnvelopeId([0x93; 32])],
        time: NOW,
        nonce: NONCE,
        body: Bytes::default(),
    };
    HANA.by_device(&close(page, &keys, &records()))
}

/// Its id.
pub(crate) fn id() -> EnvelopeId {
    page_id(&page())
}

/// Where her keepers are.
pub(crate) fn locator() -> Signed<Locator> {
    let keepers = HANA.record().keepers;
    let whereabouts = Whereabouts {
        account: HANA.account(),
        record: VERSION,
        keepers: keepers.into_iter().map(|keeper| keeper.place).collect(),
    };
    locator::write(&HANA.keys().locator, &whereabouts, NOW, NONCE)
}
