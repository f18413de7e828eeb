//! `vedette migrate`: the store's tables, created or brought up to date.

use anyhow::Context;
use clap::Args;

use super::{Common, components, print_all};

#[derive(Args)]
#[command(after_help = super::EXIT_CODES)]
pub struct Migrate {
    #[command(flatten)]
    common: Common,
}

impl Migrate {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.common.load()?;
        super::start_log(&config)?;
        let store = components::store(&config).await?;
        store.migrate().await.context("can't migrate the store")?;
        print_all("The store's tables are up to date.\n")
    }
}
