//! Which cluster a command talks to: the kubeconfig given, else the usual ones.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use super::Failure;
use super::args::TargetArgs;
use crate::client::config::load;
use crate::client::https::HttpsTransport;
use crate::client::{Client, Error};
use crate::util::tasks::Tasks;

/// Where `orch server` writes it.
const DEFAULT: &str = "/etc/orch/kubeconfig.yaml";

/// Runs `work` with a client of the cluster.
pub(crate) fn with_client<T, F>(
    args: &TargetArgs,
    work: impl FnOnce(Client) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        let target = load(&kubeconfig(args), None)?;
        let transport = HttpsTransport::new(target.endpoint, &tasks)?;
        let done = work(Client::new(Arc::new(transport))).await;
        tasks.cancel();
        done
    })
}

fn kubeconfig(args: &TargetArgs) -> PathBuf {
    let given = args.kubeconfig.clone();
    let variable = || {
        std::env::var_os("KUBECONFIG")
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    given
        .or_else(variable)
        .unwrap_or_else(|| PathBuf::from(DEFAULT))
}

/// Whether the server could not be reached, as opposed to having said no.
pub(crate) fn is_unreachable(error: &Error) -> bool {
    matches!(error, Error::Transport { .. })
}
