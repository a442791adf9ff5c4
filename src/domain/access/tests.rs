use super::*;
use crate::domain::time::Day;

fn key(seed: u8) -> ApiKey {
    ApiKey::from_random([seed; ID_BYTES], [seed ^ 0x5a; SECRET_BYTES])
}

#[test]
fn a_key_has_one_text_and_a_typo_in_any_place_is_told_apart() {
    let text = key(1).reveal();
    assert_eq!(text.len(), 73);
    assert_eq!(text.parse::<ApiKey>().unwrap().reveal(), text);
    for place in 0..text.len() {
        let mut typo = text.clone().into_bytes();
        typo[place] = if typo[place] == b'3' { b'4' } else { b'3' };
        let error = String::from_utf8(typo).unwrap().parse::<ApiKey>().err().unwrap();
        let digits = (4..16).contains(&place) || place > 16;
        assert_eq!(error, if digits { KeyError::Checksum } else { KeyError::Form }, "{place}");
    }
    for wrong in [text.to_uppercase(), format!("{text}0"), text[..72].to_owned(), format!(" {text}"), String::new()] {
        assert_eq!(wrong.parse::<ApiKey>().err(), Some(KeyError::Form), "{wrong}");
    }
    assert_eq!(text.parse::<KeyId>(), Ok(key(1).id()), "a key names itself");
    assert_eq!("aip_é_é".parse::<ApiKey>().err(), Some(KeyError::Form));
}

fn record(of: &ApiKey) -> KeyRecord {
    entries(&format!("alice={}", of.reveal())).unwrap().remove(0)
}

#[test]
fn a_key_is_admitted_until_it_expires_or_is_revoked() {
    let (mine, other) = (key(1), key(2));
    let mut kept = record(&mine);
    let now = Timestamp::from_millis(1_000);
    assert_eq!(kept.admit(&mine, now), Ok(()));
    assert_eq!(kept.admit(&other, now), Err(KeyRefusal::Unknown));
    let same_name = ApiKey::from_random([1; ID_BYTES], [9; SECRET_BYTES]);
    assert_eq!(kept.admit(&same_name, now), Err(KeyRefusal::Unknown));
    kept.expires_at = Some(Timestamp::from_millis(1_001));
    assert_eq!(kept.admit(&mine, now), Ok(()));
    kept.expires_at = Some(now);
    assert_eq!(kept.admit(&mine, now), Err(KeyRefusal::Expired));
    assert_eq!(kept.admit(&same_name, now), Err(KeyRefusal::Unknown), "only who has the key is told");
    kept.revoked_at = Some(now);
    assert_eq!(kept.admit(&mine, now), Err(KeyRefusal::Revoked));
}

#[test]
fn an_admin_has_every_scope_and_the_others_only_their_own() {
    let scopes: Scopes = "read,submit".parse().unwrap();
    assert_eq!((scopes, scopes.to_string().as_str()), (Scopes::USER, "submit+read"));
    assert!(!scopes.has(Scope::Admin));
    let read: Scopes = "read".parse().unwrap();
    assert!(read.has(Scope::Read) && !read.has(Scope::Submit));
    let admin: Scopes = "admin".parse().unwrap();
    assert!(Scope::ALL.into_iter().all(|scope| admin.has(scope)));
    for wrong in ["", "write", "read+", "Read"] {
        assert!(wrong.parse::<Scopes>().is_err(), "{wrong}");
    }
}

#[test]
fn a_list_has_keys_or_their_hashes_and_what_they_grant() {
    let (one, two) = (key(1), key(2));
    let hashed = format!("aip_{}_sha256:{}", two.id(), two.hash());
    let text = format!(
        "\u{feff}# the team\r\n alice={} \n\nbob={hashed};scopes=read;expires=2027-01-31;budget=5,{}\n",
        one.reveal(),
        key(3).reveal()
    );
    let keys = entries(&text).unwrap();
    assert_eq!(keys.len(), 3);
    assert_eq!((keys[0].user.as_str(), keys[0].scopes), ("alice", Scopes::USER));
    assert_eq!(keys[2].user.as_str(), "030303030303");
    let bob = &keys[1];
    assert_eq!((bob.scopes.to_string().as_str(), bob.daily_budget), ("read", Some(MicroUsd::from_micros(5_000_000))));
    let last = "2027-01-31".parse::<Day>().unwrap();
    assert_eq!(bob.expires_at, Some(last.end()));
    assert_eq!(bob.admit(&two, Timestamp::from_millis(0)), Ok(()));
    assert_eq!(
        bob.entry(),
        format!("bob={hashed};scopes=read;expires=2027-01-31;budget={}", bob.daily_budget.unwrap())
    );
    let again = entries(&bob.entry()).unwrap().remove(0);
    assert_eq!((again.expires_at, again.daily_budget), (bob.expires_at, bob.daily_budget));
}

#[test]
fn a_fault_in_a_list_is_named_without_its_text() {
    let good = key(1).reveal();
    let mut typo = good.clone();
    typo.replace_range(40..41, if &good[40..41] == "0" { "1" } else { "0" });
    for (entry, word) in [
        ("s3cret".to_owned(), "keys new"),
        (typo, "typo"),
        (format!("a b={good}"), "name"),
        (format!("alice={good};scopes=write"), "scopes"),
        (format!("alice={good};expires=soon"), "expires"),
        (format!("alice={good};budget=much"), "budget"),
        (format!("alice={good};x=y"), "scopes="),
        (format!("{good},bob={good}"), "twice"),
        ("bob=aip_010101010101_sha256:12".to_owned(), "64"),
    ] {
        let error = entries(&entry).err().unwrap().to_string();
        assert!(error.contains(word) && !error.contains("s3cret") && !error.contains(&good[20..30]), "{error}");
    }
}
