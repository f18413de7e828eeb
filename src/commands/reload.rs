//! Rules and overlay, watched: what changes there is handed to the engine as a whole, or the reason why it can't be used.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vedette_analytics::pipeline::Reloads;
use vedette_detections::{Config, LoadError, Ruleset};

/// How long files must stay as they are before they are read: whoever writes several is given the time.
const SETTLED: Duration = Duration::from_millis(250);

/// After this long, what could not be used is tried again, though nothing has changed that is looked at.
const AGAIN: Duration = Duration::from_secs(30);

/// Looks for changes until the token is cancelled; never, if the configuration says so. `known` is the fingerprint of what was
/// live at first, taken before it was read.
pub fn watch(config: &Config, known: u64, live: Arc<Ruleset>, stop: CancellationToken) -> Reloads {
    let (sender, reloads) = watch::channel(Ok(live));
    let config = config.clone();
    tokio::spawn(async move {
        let every = Duration::from_secs(u64::from(config.reload_seconds));
        if !every.is_zero() {
            stop.run_until_cancelled(follow(config, every, known, sender)).await;
        }
    });
    reloads
}

type Sender = watch::Sender<Result<Arc<Ruleset>, Arc<str>>>;

async fn follow(config: Config, every: Duration, known: u64, sender: Sender) {
    let config = Arc::new(config);
    let mut known = Some(known);
    let mut refused: Option<Arc<str>> = None;
    let mut tried = Instant::now();
    loop {
        tokio::time::sleep(every).await;
        let mut now = fingerprint(&config).await;
        if now == known && (refused.is_none() || tried.elapsed() < AGAIN) {
            continue;
        }
        while now != known {
            known = now;
            tokio::time::sleep(SETTLED).await;
            now = fingerprint(&config).await;
        }
        tried = Instant::now();
        let loaded = load(&config).await;
        let reason = loaded.as_ref().err().cloned();
        // The same reason again is no news.
        if reason.is_none() || reason != refused {
            drop(sender.send_replace(loaded));
        }
        refused = reason;
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn next(reloads: &mut Reloads) -> Result<Arc<Ruleset>, Arc<str>> {
        tokio::time::timeout(Duration::from_secs(60), reloads.changed()).await.unwrap().unwrap();
        reloads.borrow_and_update().clone()
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_told_once_and_forgotten_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let stray = folder.path().join("lists/robots.txt~");
        fs::create_dir(folder.path().join("lists")).unwrap();
        let config = Config { builtin: false, overlay: Some(folder.path().to_owned()), ..Config::default() };
        let known = config.fingerprint();
        let (sender, mut reloads) = watch::channel(Ok(Arc::default()));
        let following = tokio::spawn(follow(config, Duration::from_millis(5), known, sender));
        for _ in 0..2 {
            fs::write(&stray, "").unwrap();
            let reason = next(&mut reloads).await.unwrap_err();
            assert!(reason.contains("robots.txt~: nothing reads it"), "{reason}");
            // Another change, and the same reason: the next that is heard of is that all is well.
            fs::write(folder.path().join("lists/robots.txt"), "ci").unwrap();
            tokio::time::sleep(2 * SETTLED).await;
            fs::remove_file(&stray).unwrap();
            let set = next(&mut reloads).await.unwrap();
            assert_eq!(set.lists.names().collect::<Vec<_>>(), ["robots"]);
        }
        following.abort();
    }
}
