//! `pumasi drill`: what would be left if a building burned.

use super::Session;
use super::print::flat;
use crate::client::segment;
use crate::error::Result;
use crate::view::DrillView;

/// `pumasi drill`.
#[derive(Debug, clap::Args)]
pub(crate) struct Drill {
    /// The building, as its nodes write it
    building: String,
}

impl Drill {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let Session { client, out } = session;
        let path = format!("/drill?building={}", segment(&self.building));
        let drill: DrillView = client.get(&path).await?;
        out.one(&drill, shown)
    }
}

fn shown(drill: &DrillView) -> String {
    let mut lines = vec![flat(&drill.text)];
    for one in &drill.accounts {
        let good = one.restorable && one.pages_at_risk == 0 && one.messages_at_risk == 0;
        lines.push(format!(
            "{} {}",
            if good { "-" } else { "!" },
            flat(&one.text)
        ));
        if !one.at_risk.is_empty() {
            lines.push(format!("    such as {}", one.at_risk.join(", ")));
        }
    }
    lines.join("\n")
}
