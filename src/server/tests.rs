use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Limits, Listeners, Server,
    options::Options,
    reload::Reloader,
    watch::{Contents, Files, Snapshot},
};
use crate::{
    api::{state, wanted},
    base::{deadline::Deadline, secret::Secret, sync::mpsc},
    cache::Expiry,
    config::{self, Flags, Origin},
    keystore::{Error, KeyName, KeyStore, mem::Mem},
    log::{Log, Settings},
};

/// A server with this key store. It logs nothing.
fn start(store: Arc<dyn KeyStore>) -> Server {
    let (state, _) = state::for_tests();
    let quiet = Settings { error: false, ..Settings::default() };
    let log = Box::leak(Box::new(Log::start(quiet, true).unwrap()));
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = Listeners { api: socket.into(), probe: None };
    let limits = Limits { workers: 1, connections: 10 };
    let notifier = Box::leak(Box::default());
    let started = Server::start(listeners, limits, state, Expiry::default(), store, log, notifier);
    started.unwrap()
}

/// A key store with a bug, which counts how often it is met.
#[derive(Default)]
struct Buggy(AtomicUsize);

impl KeyStore for Buggy {
    fn create(&self, _: &KeyName, _: &Secret, _: Deadline) -> Result<(), Error> {
        Ok(())
    }

    fn get(&self, _: &KeyName, _: Deadline) -> Result<Secret, Error> {
        Err(Error::NotFound)
    }

    fn delete(&self, _: &KeyName, _: Deadline) -> Result<(), Error> {
        Ok(())
    }

    fn list(&self, _: Deadline) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    fn status(&self, _: Deadline) -> Result<(), Error> {
        Ok(())
    }

    fn describe(&self) -> String {
        "Buggy".to_owned()
    }

    fn retry(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("a bug");
    }
}

#[test]
fn the_thread_that_reloads_survives_a_bug() {
    let store = Arc::new(Buggy::default());
    let server = start(store.clone());
    let flags = Flags {
        root: Some("disabled".to_owned()),
        key: Some("server.key".into()),
        cert: Some("server.crt".into()),
        ..Flags::default()
    };
    let config = config::load(Origin::Flags, &flags, &[]).unwrap().accept().unwrap();
    let options = Options::default();
    let (files, contents) = (Files::of(&options, &config), Contents::of(&options, &config));
    let read = Snapshot { files, contents };
    let notifier = Box::leak(Box::default());
    let reloader =
        Reloader::new(server.core, notifier, &options, config, state::for_tests().1, read);
    let (ask, asked) = mpsc::sync_channel(1);
    reloader.start(asked).unwrap();
    for times in 1..4 {
        ask.send(()).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while store.0.load(Ordering::SeqCst) < times {
            assert!(Instant::now() < until, "reload {times} does not come");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_missing_key_that_the_configuration_wants_no_more_is_not_created() {
    let server = start(Arc::new(Mem::default()));
    let [wanted, other] = ["wanted", "other"].map(|name| KeyName::parse(name).unwrap());
    let keep = |state: &mut state::State| {
        state.keys = vec![wanted.clone()];
        Ok::<_, ()>(())
    };
    server.core.change_state(keep).unwrap();
    wanted::start(server.core, vec![other, wanted]).unwrap();
    let deadline = || Deadline::after(Instant::now(), Duration::from_secs(30));
    let until = deadline();
    while server.core.store.list(deadline()).unwrap().is_empty() {
        assert!(!until.has_passed(Instant::now()), "none is created");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(vec!["wanted"], server.core.store.list(deadline()).unwrap());
}
