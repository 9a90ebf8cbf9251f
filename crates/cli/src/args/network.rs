//! Options that say what the guest may reach.

use agent_vm_policy::{EgressRule, HostPattern, Preset};
use clap::Args;

/// They compose: what one grants, none of the others takes away.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct NetworkOptions {
    /// What may be reached: public (unless named), allowlist (hosts of --allow-domain, those with a
    /// credential and the built-in list), ask (the same; you are asked about others) or offline
    #[arg(long, value_name = "POLICY", help_heading = "Network")]
    pub(crate) policy: Option<Preset>,
    /// Nothing may be reached, like --policy offline
    #[arg(long, help_heading = "Network")]
    pub(crate) offline: bool,
    /// A host that may be reached, NAME or *.NAME; others may not: --policy allowlist (repeatable)
    #[arg(long, value_name = "PATTERN", help_heading = "Network")]
    pub(crate) allow_domain: Vec<HostPattern>,
    /// An address or network that may be reached although it is not public (repeatable)
    #[arg(long, value_name = "IP|CIDR[:PORT]", help_heading = "Network")]
    pub(crate) allow_egress: Vec<EgressRule>,
    /// Private networks may be reached (RFC 1918, fc00::/7)
    #[arg(long, help_heading = "Network")]
    pub(crate) allow_lan: bool,
    /// Services on this host's loopback may be reached, as host.agent-vm.internal
    #[arg(long, help_heading = "Network")]
    pub(crate) allow_host: bool,
    /// Keys and tokens of the guest's own may be sent to hosts that a credential of this host is for
    #[arg(long, help_heading = "Network")]
    pub(crate) allow_foreign_credentials: bool,
}
