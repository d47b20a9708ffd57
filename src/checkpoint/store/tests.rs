use adtide_dataflows::model::EventTime;
use adtide_dataflows::{Kind, Memory, Settings};

use super::*;
use crate::sink::{Progress, Run};

/// Prices of products.
fn prices(products: std::ops::Range<i64>, offset: u64) -> StateDelta {
    let prices =
        products.map(|product| (product, (0, offset), Some(adtide_dataflows::model::Money(offset as i64))));
    StateDelta { prices: prices.collect(), ..StateDelta::default() }
}

fn manifest(epoch: Epoch, segments: &[Segment]) -> Manifest {
    let run = Run { settings: Settings::default(), source: "topics".to_owned() };
    let progress = Progress { epoch, ..Progress::default() };
    Manifest::new(epoch, run, progress, Watermarks::MIN, segments.to_vec(), 0)
}

struct Place {
    folder: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap(), "adtide").unwrap();
        Place { folder, store }
    }

    fn files(&self, kind: &str) -> Vec<std::path::PathBuf> {
        let files = std::fs::read_dir(self.folder.path().join("adtide").join(kind)).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    }
}

#[test]
fn what_is_written_is_read_and_only_a_manifest_makes_it_a_checkpoint() {
    let place = Place::new();
    let segments = place.store.write(1000, 0, &mut prices(0..10, 1)).unwrap();
    assert_eq!(place.store.manifests().unwrap(), Vec::<Epoch>::new());
    let written = manifest(1000, &segments);
    place.store.commit(&written).unwrap();
    place.store.commit(&manifest(2000, &segments)).unwrap();
    assert_eq!(place.store.manifests().unwrap(), [2000, 1000]);
    assert_eq!(place.store.load(1000).unwrap(), written);
    place.store.verify(&written).unwrap();
    assert_eq!(place.store.read(&segments[0]).unwrap(), prices(0..10, 1));
    assert_eq!(
        Store::open(place.folder.path().to_str().unwrap(), "other").unwrap().manifests().unwrap(),
        Vec::<Epoch>::new()
    );
}

#[test]
fn damage_of_any_file_is_found_and_named() {
    let damages: [fn(&std::path::Path); 3] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| std::fs::write(path, &std::fs::read(path).unwrap()[..20]).unwrap(),
        |path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[30] ^= 4;
            std::fs::write(path, bytes).unwrap();
        },
    ];
    for damage in damages {
        for kind in ["segments", "manifests"] {
            let place = Place::new();
            let segments = place.store.write(1000, 0, &mut prices(0..10, 1)).unwrap();
            place.store.commit(&manifest(1000, &segments)).unwrap();
            let file = place.files(kind).remove(0);
            damage(&file);
            let error =
                place.store.load(1000).and_then(|manifest| place.store.verify(&manifest)).unwrap_err();
            assert!(error.is::<Damage>(), "{error:#}");
            assert!(error.to_string().contains(file.file_name().unwrap().to_str().unwrap()), "{error:#}");
        }
    }
}

#[test]
fn merged_upserts_keep_the_newest_in_whatever_order() {
    let place = Place::new();
    let mut segments = place.store.write(1, 0, &mut prices(0..10, 7)).unwrap();
    segments.extend(place.store.write(2, 1, &mut prices(5..15, 3)).unwrap());
    let merged =
        place.store.merge(&segments, &Watermarks::MIN, Settings::default().memory()).unwrap().unwrap();
    assert_eq!((merged.kind, merged.rows, merged.level), (Kind::Prices, 15, 1));
    let mut expected = prices(0..10, 7);
    expected.append(prices(10..15, 3));
    assert_eq!(place.store.read(&merged).unwrap(), expected);
}

#[test]
fn what_has_expired_is_not_merged() {
    let place = Place::new();
    let click = |time| {
        let click = adtide_dataflows::conversion_matcher::StoredClick {
            keys: [None, None],
            click_time: EventTime(time),
            ad_id: None,
            campaign_id: None,
            advertiser_id: 1,
        };
        StateDelta { clicks: vec![(1, click)], ..StateDelta::default() }
    };
    let mut segments = place.store.write(1, 0, &mut click(1000)).unwrap();
    segments.extend(place.store.write(1, 0, &mut click(2000)).unwrap());
    let memory = Memory { lookback: 1000, repeat_within: 0 };
    let merge =
        |forgotten| place.store.merge(&segments, &Watermarks::all(EventTime(forgotten)), memory).unwrap();
    assert_eq!(merge(2000).unwrap().rows, 2);
    assert_eq!(merge(2001).unwrap().rows, 1);
    assert_eq!(merge(3001), None);
}

#[test]
fn only_what_no_checkpoint_needs_is_deleted() {
    let place = Place::new();
    let write = |epoch: Epoch| place.store.write(epoch, 0, &mut prices(0..3, epoch)).unwrap().remove(0);
    let [old, shared, new, under_way] = [1, 2, 3, 4].map(write);
    place.store.commit(&manifest(1000, &[old, shared.clone()])).unwrap();
    place.store.commit(&manifest(2000, &[shared.clone(), new.clone()])).unwrap();
    place.store.prune(&[1000], std::slice::from_ref(&new)).unwrap();
    assert_eq!(place.store.manifests().unwrap(), [2000]);
    place.store.verify(&manifest(0, &[shared.clone(), new.clone(), under_way.clone()])).unwrap();
    assert_eq!(place.files("segments").len(), 3);
    assert_eq!(place.store.clear_orphans().unwrap(), 1, "what is under way when nobody writes");
    place.store.verify(&manifest(0, &[shared, new])).unwrap();
    assert!(place.store.delete(7).unwrap_err().to_string().contains("no checkpoint of epoch 7"));
    place.store.delete(2000).unwrap();
    assert_eq!(place.files("segments").len(), 0);
}

#[test]
fn a_run_that_was_replaced_neither_commits_nor_deletes() {
    let place = Place::new();
    let open = || Store::open(place.folder.path().to_str().unwrap(), "adtide").unwrap();
    let (zombie, successor) = (open(), open());
    let write = |store: &Store, epoch| store.write(epoch, 0, &mut prices(0..3, epoch)).unwrap().remove(0);
    zombie.take_over(None).unwrap();
    let [old, shared] = [1, 2].map(|epoch| write(&zombie, epoch));
    zombie.commit(&manifest(1000, &[old])).unwrap();
    zombie.commit(&manifest(2000, std::slice::from_ref(&shared))).unwrap();
    let generation = successor.generation().unwrap();
    successor.take_over(Some(generation.clone())).unwrap();
    successor.commit(&manifest(3000, std::slice::from_ref(&shared))).unwrap();
    for refused in [zombie.commit(&manifest(2500, &[])), zombie.prune(&[1000, 2000], &[])] {
        assert!(refused.unwrap_err().to_string().contains("another run has taken over"));
    }
    assert_eq!(place.store.manifests().unwrap(), [3000, 2000, 1000]);
    successor.prune(&[1000, 2000], &[]).unwrap();
    let kept = place.store.load(3000).unwrap();
    assert_eq!((place.store.manifests().unwrap(), &kept.generation), (vec![3000], &generation));
    place.store.verify(&kept).unwrap();
    place.store.check_there(&kept.segments).unwrap();
    place.store.delete(3000).unwrap();
    assert!(place.store.check_there(&kept.segments).unwrap_err().to_string().contains(&shared.name));
}

#[test]
fn who_starts_over_begins_a_generation() {
    let place = Place::new();
    let open = || Store::open(place.folder.path().to_str().unwrap(), "adtide").unwrap();
    assert_eq!(place.store.generation().unwrap(), "", "of a version that knew none");
    let continuing = |generation| {
        let store = open();
        store.take_over(generation).unwrap();
        open().generation().unwrap()
    };
    assert_eq!(continuing(Some(String::new())), "");
    let first = continuing(None);
    assert!(!first.is_empty());
    assert_eq!(continuing(Some(first.clone())), first);
    assert_ne!(continuing(None), first);
    assert_eq!(place.files("runs").len(), 1);
}
