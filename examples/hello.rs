//! Two nodes in one program: they meet, one writes, the other reads. `cargo run --example hello`

use anyhow::Result;
use pumasi_node::Node;

#[tokio::main]
async fn main() -> Result<()> {
    let text = pumasi_examples::in_temporary_directory(|directory| async move {
        let node = Node::builder()
            .local()
            .data_dir(directory.join("hana"))
            .start()
            .await?;
        let other = Node::builder()
            .local()
            .data_dir(directory.join("bora"))
            .start()
            .await?;
        node.create_account("hana").await?;
        other.create_account("bora").await?;
        let hana = node.account(None).await?;
        let bora = other.account(None).await?;

        let invitation = hana.invite(Some("bora")).await?;
        bora.add_contact(&invitation.link, Some("hana")).await?;
        bora.send("hana", "안녕", None).await?;

        let text = pumasi_examples::next_text(&hana).await?;
        node.shutdown().await;
        other.shutdown().await;
        Ok(text)
    })
    .await?;
    pumasi_examples::say(&text);
    Ok(())
}
