//! What this process holds that others must not see: private keys, and the verifiers of users.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// From now on no core is written of this process, and only a privileged user may trace it or read its
/// memory and its environment, as ssh-agent sees to it: PR_SET_DUMPABLE(2const). To be called before a
/// secret is read.
pub(crate) fn protect() {
    // Where that is forbidden the secrets are as safe as files and limits make them.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
