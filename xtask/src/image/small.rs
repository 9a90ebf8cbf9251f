//! `image small`: makes the small test image from this machine's packages and pushes it to a registry.

use std::net::SocketAddr;

use agent_vm_test_support::image_tree::ImageTree;
use agent_vm_test_support::registry::RegistryClient;
use anyhow::Result;
use clap::Args;

use crate::setup;

#[derive(Debug, Clone, Args)]
pub(crate) struct SmallArguments {
    /// The registry to push to, by plain HTTP.
    #[arg(long, value_name = "ADDRESS:PORT")]
    push: SocketAddr,
    /// The repository.
    #[arg(long, default_value = "agent-vm/small")]
    name: String,
    /// The tag.
    #[arg(long, default_value = "1")]
    tag: String,
}

/// Pushes the image and prints its reference by digest.
///
/// # Errors
/// When a program it is made of is missing, or the registry refuses it.
pub(crate) fn run(arguments: &SmallArguments) -> Result<()> {
    setup::run()?;
    let registry = RegistryClient::at(arguments.push);
    let digest = ImageTree::small()?.push(&registry, &arguments.name, &arguments.tag)?;
    println!("{}/{}@{digest}", arguments.push, arguments.name);
    Ok(())
}
