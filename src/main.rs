//! Vedette's program: reads the command line, hands over to the verb, and turns its result into an exit code.

mod commands;
mod config;

use std::process::ExitCode;

use clap::Parser;

use commands::{Cli, ExitReason};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Clients and servers of TLS use ring. This fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("vedette: can't start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(commands::run(cli));
    // Tasks that outlive their verb are not waited for: what must be finished, the verb has finished.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vedette: {}", commands::told(&error));
            ExitReason::of(&error).code()
        }
    }
}
