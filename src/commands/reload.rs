//! Rules and overlay, watched: what changes there is handed to the engine as a whole, or the reason why it can't be used.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vedette_analytics::pipeline::Reloads;
use vedette_detections::{Config, LoadError, Ruleset};

/// How long files must stay as they are before they are read: whoever writes several is given the time.
const SETTLED: Duration = Duration::from_millis(250);

/// Looks for changes until the token is cancelled; never, if the configuration says so.
pub fn watch(config: &Config, live: Arc<Ruleset>, stop: CancellationToken) -> Reloads {
    let (sender, reloads) = watch::channel(Ok(live));
    let config = config.clone();
    tokio::spawn(async move {
        let every = Duration::from_secs(u64::from(config.reload_seconds));
        if !every.is_zero() {
            stop.run_until_cancelled(follow(config, every, sender)).await;
        }
    });
    reloads
}

type Sender = watch::Sender<Result<Arc<Ruleset>, Arc<str>>>;

async fn follow(config: Config, every: Duration, sender: Sender) {
    let config = Arc::new(config);
    let mut known = fingerprint(&config).await;
    loop {
        tokio::time::sleep(every).await;
        let mut now = fingerprint(&config).await;
        if now == known {
            continue;
        }
        loop {
            tokio::time::sleep(SETTLED).await;
            let again = fingerprint(&config).await;
            if again == now {
                break;
            }
            now = again;
        }
        known = now;
        drop(sender.send_replace(load(&config).await));
    }
}

/// Files are read off the runtime's own threads. A panic there is as good as no answer.
async fn fingerprint(config: &Arc<Config>) -> Option<u64> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || config.fingerprint()).await.ok()
}

async fn load(config: &Arc<Config>) -> Result<Arc<Ruleset>, Arc<str>> {
    let config = config.clone();
    let loaded = tokio::task::spawn_blocking(move || config.load()).await;
    match loaded {
        Ok(Ok(set)) => {
            set.notes.iter().for_each(|note| tracing::warn!("{note}"));
            Ok(Arc::new(set))
        }
        Ok(Err(errors)) => Err(errors.iter().map(LoadError::to_string).collect::<Vec<_>>().join("; ").into()),
        Err(panic) => Err(panic.to_string().into()),
    }
}
