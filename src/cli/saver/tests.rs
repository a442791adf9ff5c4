use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Path as Named;
use axum::http::StatusCode;
use axum::routing::get;

use super::*;
use crate::domain::picture::PictureFormat;

/// A service whose pictures hold their own row's name; `lost` is gone, `broken` is something else.
async fn service(asked: &'static AtomicUsize) -> Client {
    let picture = move |Named((_, scene, _)): Named<(String, String, u32)>| async move {
        asked.fetch_add(1, Ordering::Relaxed);
        match &*scene {
            "lost" => Err(StatusCode::NOT_FOUND),
            "broken" => Ok("something else".to_owned()),
            "swollen" => Ok("swollen".repeat(1_000)),
            _ => Ok(scene),
        }
    };
    let routes = Router::new().route("/images/{batch}/items/{scene}/{variant}", get(picture));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::local(listener.local_addr().unwrap()).unwrap();
    tokio_util::task::TaskTracker::new().spawn(async { axum::serve(listener, routes).await.unwrap() });
    client
}

fn picture(scene: &str) -> Picture {
    let sha256 = hex(Sha256::new_with_prefix(scene));
    let bytes = (scene == "swollen").then_some(7);
    Picture { scene: scene.parse().unwrap(), variant: 1, format: PictureFormat::Png, sha256, bytes }
}

async fn save(client: &Client, folder: &Path, scenes: &[&str]) -> (Result<(), Failure>, usize, Vec<String>) {
    let screen = Screen::new();
    let saver = Saver::new(client, &screen, "bat_01KB0000000000000000000000".parse().unwrap(), folder);
    let pictures: Vec<Picture> = scenes.iter().map(|scene| picture(scene)).collect();
    let ended = saver.save_all(futures_util::stream::iter(pictures)).await;
    (ended, saver.count(), saver.lost())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_is_there_and_right_is_not_fetched_again() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let (client, folder) = (service(&ASKED).await, tempfile::tempdir().unwrap());
    for _ in 0..2 {
        let (saved, count, lost) = save(&client, folder.path(), &["a", "b", "a"]).await;
        saved.unwrap();
        assert_eq!((count, lost.len()), (2, 0));
    }
    assert_eq!(names(folder.path()), ["a_v1.png", "b_v1.png"]);
    assert_eq!(ASKED.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_file_that_is_not_the_picture_is_kept_and_makes_room_for_it() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let (client, folder) = (service(&ASKED).await, tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("a_v1.png"), "retouched").unwrap();
    // What a killed command left.
    std::fs::write(folder.path().join(".a_v1.png.part"), "half of something long").unwrap();
    save(&client, folder.path(), &["a"]).await.0.unwrap();
    let [picture, other] = &names(folder.path())[..] else { panic!("{:?}", names(folder.path())) };
    assert_eq!(std::fs::read_to_string(folder.path().join(picture)).unwrap(), "a");
    assert_eq!(std::fs::read_to_string(folder.path().join(other)).unwrap(), "retouched");
}

#[tokio::test]
async fn a_picture_that_is_gone_keeps_no_other_back() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let (client, folder) = (service(&ASKED).await, tempfile::tempdir().unwrap());
    let (saved, count, lost) = save(&client, folder.path(), &["lost", "a"]).await;
    saved.unwrap();
    assert_eq!((count, lost.len()), (1, 1));
    assert!(lost[0].starts_with("lost_v1.png: "), "{lost:?}");
}

#[tokio::test]
async fn bytes_that_are_not_the_picture_never_get_its_name() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let (client, folder) = (service(&ASKED).await, tempfile::tempdir().unwrap());
    let (saved, count, lost) = save(&client, folder.path(), &["broken", "a"]).await;
    saved.unwrap();
    assert_eq!((count, lost.len()), (1, 1), "the others are saved");
    assert!(lost[0].contains("broken_v1.png arrives with other bytes"), "{lost:?}");
    assert_eq!(ASKED.load(Ordering::Relaxed), 2 + MAX_BROKEN as usize);
    assert!(!folder.path().join("broken_v1.png").exists());
}

#[tokio::test]
async fn no_more_of_a_picture_is_written_than_it_has() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let (client, folder) = (service(&ASKED).await, tempfile::tempdir().unwrap());
    let (saved, count, lost) = save(&client, folder.path(), &["swollen", "a"]).await;
    saved.unwrap();
    assert_eq!(count, 1);
    assert!(lost[0].contains("swollen_v1.png arrives with more bytes than it has"), "{lost:?}");
    let part = folder.path().join(".swollen_v1.png.part");
    assert!(std::fs::metadata(part).unwrap().len() <= 7);
}
