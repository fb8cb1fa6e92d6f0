//! Contacts: everybody still knows everybody they made friends with; who came back knows them under the
//! same name, and nobody else.

use std::collections::BTreeMap;

use super::{Reckoning, Scene};

pub(super) fn check(scene: &Scene<'_>, reckoning: &mut Reckoning) {
    for (&account, found) in &scene.findings.accounts {
        let reader = scene.name(account);
        let shown: BTreeMap<&str, _> = found
            .contacts
            .iter()
            .map(|contact| (contact.id.as_str(), contact))
            .collect();
        if shown.len() != found.contacts.len() {
            reckoning
                .broken
                .push(format!("{reader} is shown a contact twice"));
        }
        let mut expected = 0;
        for friendship in &scene.record.friendships {
            let other = if friendship.a == account {
                friendship.b
            } else if friendship.b == account {
                friendship.a
            } else {
                continue;
            };
            expected += 1;
            let name = scene.name(other);
            let text = match shown.get(scene.record.people[other].id.as_str()) {
                None => format!("{name} is gone from the contacts of {reader}"),
                Some(contact) if contact.state != "active" || contact.blocked => {
                    format!("{reader} is shown {name} as {}", contact.state)
                }
                Some(contact) if scene.burned(account) && contact.name != *name => {
                    format!(
                        "{reader} is shown {name} as a contact named {}",
                        contact.name
                    )
                }
                Some(_) => continue,
            };
            reckoning.broken.push(text);
        }
        if scene.burned(account) && shown.len() > expected {
            reckoning.broken.push(format!(
                "{reader} is shown {} contacts, and has {expected}",
                shown.len()
            ));
        }
    }
}
