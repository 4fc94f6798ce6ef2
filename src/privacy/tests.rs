//! Bodies through a policy, case by case and at random.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::Array as _;
use arrow_array::RecordBatch;
use bytes::Bytes;
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::clock;
use crate::flatten::{Columns, Plan, Row};
use crate::schema::Column;
use crate::snapshot::{AccountId, Endpoint, Origin, Outcome, Source};

const PERSON: &str = "[classes]\nperson = \"pseudonym\"\nlocation = \"drop\"\n";

fn key() -> Key {
    Key::parse(b"sixteen letters!").expect("a key")
}

fn rules(text: &str) -> Rules {
    toml::from_str(text).expect("rules")
}

fn policy(text: &str) -> Policy {
    Policy::new(&Schema::device_state(), &rules(text), Some(key())).expect("a policy")
}

fn answer(bodies: &[&[u8]], poll: Option<Poll>) -> Answer {
    Answer {
        account_id: AccountId::parse("01a7362d577a6c3019a474fd6f485823").expect("an account"),
        sweep_id: "s".to_owned(),
        source: Source::Import,
        collected_at: clock::parse_timestamp("2026-11-24T07:40:51Z").expect("a timestamp"),
        bodies: bodies
            .iter()
            .map(|bytes| Body {
                bytes: Bytes::copy_from_slice(bytes),
                origin: Some(Origin { file: "f".into(), line: 1 }),
            })
            .collect(),
        poll,
    }
}

fn applied(policy: &Policy, body: &[u8]) -> String {
    let treated = policy.apply(answer(&[body], None)).bodies.remove(0);
    assert_eq!(treated.origin.map(|origin| origin.to_string()).as_deref(), Some("f:1"));
    String::from_utf8(treated.bytes.into()).expect("text")
}

fn check(rules: &str, body: &str, expect: &Expect) {
    // A pseudonym tells from which value it is, which is enough here.
    let mut said = applied(&policy(rules), body.as_bytes());
    for value in ["alice", "d", "ü\"😀", "SJC"] {
        said = said.replace(&key().pseudonym(value), &format!("P({value})"));
    }
    expect.assert_eq(&said);
}

#[test]
fn a_key_without_rules_changes_nothing_and_still_finds_pseudonyms() {
    let policy = policy("");
    assert!(!policy.is_active());
    assert_eq!(policy.pseudonym("alice"), Some(key().pseudonym("alice")));
}

#[test]
fn only_what_is_treated_changes() {
    let body =
        " {\t\"deviceId\" : \"d\",\n\"personEmail\":\"alice\" , \"batteryCycles\": 1.50,\"new\":{\"a\": [1 ]} }\n";
    let said = |rules: &str| applied(&policy(rules), body.as_bytes());
    assert_eq!(said(PERSON), body.replace("alice", &key().pseudonym("alice")));
    assert_eq!(said("[columns]\nperson_email = \"drop\""), body.replace(",\n\"personEmail\":\"alice\"", ""));
    assert_eq!(said("unknown = \"drop\""), body.replace("1.50,\"new\":{\"a\": [1 ]}", "null"));
    assert_eq!(said("[columns]\ncolo = \"drop\""), body);
}

#[test]
fn an_entry_goes_with_one_comma() {
    let drop = "[columns]\ncolo = \"drop\"\nmode = \"drop\"";
    for (body, expect) in [
        (r#"{"colo":1,"deviceId":"d"}"#, r#"{"deviceId":"d"}"#),
        (r#"{ "colo":1 , "mode":[",{"] , "deviceId":"d","status":"s" }"#, r#"{ "deviceId":"d","status":"s" }"#),
        (r#"{"deviceId":"d","colo":{"a":1}}"#, r#"{"deviceId":"d"}"#),
        (r#"{"deviceId":"d" ,"colo":1, "mode":2 , "status":"s"}"#, r#"{"deviceId":"d" , "status":"s"}"#),
        (r#"{"colo":",","deviceId":"d","mode":","}"#, r#"{"deviceId":"d"}"#),
    ] {
        assert_eq!(applied(&policy(drop), body.as_bytes()), expect);
    }
    let only = r#"{"deviceId":"d","deviceIpv4":{ "location":{"city":"x","zip":"y" } }}"#;
    check(PERSON, only, &expect![[r#"{"deviceId":"d","deviceIpv4":{ "location":{ } }}"#]]);
}

#[test]
fn every_spelling_of_a_place_is_treated() {
    check(
        PERSON,
        r#"{"deviceId":"d","person\u0045mail":"\u0061lice","personEmail":"alice","deviceIpv4":{"version":1},
            "device\u0049pv4":{"loc\u0061tion":{"city":"x"},"location":{"zip":"y","new":1}}}"#,
        &expect![[r#"
            {"deviceId":"d","person\u0045mail":"P(alice)","personEmail":"P(alice)","deviceIpv4":{"version":1},
                        "device\u0049pv4":{"loc\u0061tion":{},"location":{"new":1}}}"#]],
    );
    check(
        PERSON,
        r#"{"deviceId":"d","personEmail":"\u00fc\"\ud83d\ude00"}"#,
        &expect![[r#"{"deviceId":"d","personEmail":"P(ü"😀)"}"#]],
    );
}

#[test]
fn what_is_no_text_has_no_pseudonym() {
    for value in ["5", "true", "{\"x\":\"alice\"}", "[\"alice\"]", "\"\\ud800alice\"", "null"] {
        let body = format!(r#"{{"deviceId":"d","personEmail":"alice","personEmail": {value} }}"#);
        check(PERSON, &body, &expect![[r#"{"deviceId":"d","personEmail":"P(alice)","personEmail": null }"#]]);
    }
    check(PERSON, r#"{"deviceId":"d","personEmail":""}"#, &expect![[r#"{"deviceId":"d","personEmail":""}"#]]);
}

#[test]
fn what_stands_in_place_of_an_object_goes_where_the_object_is_treated() {
    check(
        PERSON,
        r#"{"deviceId":"d","deviceIpv4":"alice","ispIpv4":["alice"],"ispIpv6":{"location":"alice"},"rtt":"alice"}"#,
        &expect![[r#"{"deviceId":"d","deviceIpv4":null,"ispIpv4":null,"ispIpv6":{"location":null},"rtt":"alice"}"#]],
    );
}

#[test]
fn without_the_unknown_nothing_is_left_to_be_kept_aside() {
    check(
        "unknown = \"drop\"",
        r#"{"new":1,"deviceId":"d","rtt":"alice","colo":["alice"],"batteryCycles":"alice","timestamp":"alice","cpuPct":"5",
            "cpuPctByApp":[[{"name":"a","pid":"alice"}],["alice",[1],null],{"cpu_pct":"alice","name":"b"}],"ramUsedPctByApp":{"x":"alice"}}"#,
        &expect![[r#"
            {"deviceId":"d","rtt":null,"colo":null,"batteryCycles":null,"timestamp":null,"cpuPct":null,
                        "cpuPctByApp":[[{"name":"a"}],[null,null,null],{"cpu_pct":null,"name":"b"}],"ramUsedPctByApp":null}"#]],
    );
}

#[test]
fn lists_go_as_a_whole_in_every_shape() {
    let drop = "[classes]\napps = \"drop\"";
    for list in
        [r#"[{"name":"alice"}]"#, r#"[[{"name":"alice"}],[]]"#, "\"alice\"", "{\"name\":\"alice\"}", "[[[\"alice\"]]]"]
    {
        let body = format!(r#"{{"cpuPctByApp":{list},"deviceId":"d","cpuPctByApp":{list}}}"#);
        check(drop, &body, &expect![[r#"{"deviceId":"d"}"#]]);
    }
}

#[test]
fn members_of_a_list_are_treated_where_the_list_is_not() {
    let head = "format = 1\ndataset = \"t\"\ndescription = \"d\"\npartition_by = [\"at\"]\nkey = [\"at\"]\n\
        [[column]]\nname = \"at\"\npath = \"at\"\ntype = \"timestamp\"\nrole = \"time\"\ndescription = \"When.\"\n\
        [[column]]\nname = \"list\"\npath = \"list\"\ntype = \"list\"\nrole = \"label\"\naccept = [\"nested\"]\ndescription = \"x\"\n\
        [[column.field]]\nname = \"user\"\ntype = \"string\"\npersonal = \"person\"\ndescription = \"x\"\n\
        [[column.field]]\nname = \"place\"\ntype = \"string\"\npersonal = \"location\"\ndescription = \"x\"\n";
    let schema = Schema::parse(head).expect("a schema");
    let policy = Policy::new(&schema, &rules(PERSON), Some(key())).expect("a policy");
    let treated: Vec<_> = policy.treated_columns().collect();
    assert_eq!(treated, [("list.place", Action::Drop), ("list.user", Action::Pseudonym)]);
    let said =
        applied(&policy, br#"{"list":[[{"user":"alice","place":"x","a":1}],{"place":"x"},"alice"],"list":"alice"}"#);
    let alice = key().pseudonym("alice");
    assert_eq!(said, format!(r#"{{"list":[[{{"user":"{alice}","a":1}}],{{}},null],"list":null}}"#));
    let kept = Policy::new(&schema, &rules(&format!("{PERSON}[columns]\nlist = \"keep\"")), None).expect("a policy");
    assert_eq!(kept.treated_columns().count(), 0, "the column's own rule beats those of its members' classes");
}

#[test]
fn what_is_no_state_leaves_its_length() {
    let bodies: [&[u8]; 10] = [
        b"alice",
        b"\"alice\"",
        b"[{\"deviceId\":\"d\"}]",
        b"",
        b"\xff{\"deviceId\":\"d\"}",
        b"{\"deviceId\":\"d\"",
        b"{\"deviceId\":\"d\"} {}",
        b"{\"deviceId\":\"d\",\"rtt\":{\"\\ud800\":1}}",
        b"{\"devices\":[{\"deviceId\":\"d\",\"personEmail\":\"alice\"}]}",
        b"\xef\xbb\xbf{\"deviceId\":\"d\"}",
    ];
    for body in bodies {
        let expect =
            format!("\"{} bytes that were no device state; not kept, since privacy rules are set\"", body.len());
        assert_eq!(applied(&policy(PERSON), body), expect);
    }
}

#[test]
fn without_rules_nothing_is_touched() {
    let bodies: [&[u8]; 2] = [b"\xff", b"{\"deviceId\": 5}"];
    for policy in [Policy::default(), policy(""), policy("[classes]\nperson = \"keep\"")] {
        assert!(policy.active.is_none());
        let answer = answer(&bodies, Some(poll("HTTP 404: alice")));
        assert_eq!(policy.apply(answer.clone()), answer);
    }
}

fn poll(error: &str) -> Poll {
    Poll {
        sweep_id: "s".to_owned(),
        account_id: AccountId::parse("01a7362d577a6c3019a474fd6f485823").expect("an account"),
        requested_at: clock::parse_timestamp("2026-11-24T07:40:51Z").expect("a timestamp"),
        endpoint: Endpoint::Live,
        device_id: Some("d".to_owned()),
        page: None,
        listing: None,
        outcome: Outcome::Failed,
        rows: 0,
        http_status: Some(404),
        error_code: Some(7),
        error: Some(error.to_owned()),
        attempts: 1,
        latency_ms: None,
        cf_ray: None,
        shard: None,
    }
}

#[test]
fn a_poll_names_its_device_as_the_states_do() {
    let policy = policy("[columns]\ndevice_id = \"pseudonym\"");
    let treated = policy.apply(answer(&[br#"{"deviceId":"d"}"#], Some(poll("HTTP 404, code 7: no device d"))));
    let poll = treated.poll.expect("a poll");
    assert_eq!(poll.error.as_deref(), Some("HTTP 404, code 7"));
    let pseudonym = policy.pseudonym("d").expect("a key");
    assert_eq!(poll.device_id.as_deref(), Some(&*pseudonym));
    assert_eq!(&*treated.bodies[0].bytes, format!(r#"{{"deviceId":"{pseudonym}"}}"#).as_bytes());
}

#[test]
fn says_which_rule_cannot_be_kept_to() {
    let said = |text: &str| {
        let policy = Policy::new(&Schema::device_state(), &rules(text), None);
        policy.err().map_or("fine".to_owned(), |error| error.to_string())
    };
    let [class, column] = ["classes", "columns"].map(|section| move |rule: &str| format!("[{section}]\n{rule}"));
    assert_eq!(
        said(&class("persons = \"drop\"")),
        "[privacy.classes] \"persons\" is no class of personal data (did you mean \"person\"?): there are apps, device, location, network, person"
    );
    assert_eq!(
        said(&column("wifi_ssid = \"keep\"")),
        "[privacy.columns] \"wifi_ssid\" is no column (did you mean \"network_ssid\"?): `dex-archive schema` lists them"
    );
    assert!(said(&column("cpu_pct = \"pseudonym\"")).contains("\"cpu_pct\" is of type float64: only text can be"));
    assert!(said(&column("always_on = \"pseudonym\"")).contains("is of type boolean"));
    assert!(said(&column("timestamp = \"pseudonym\"")).contains("is of type timestamp"));
    assert!(said(&class("apps = \"pseudonym\"")).contains("\"cpu_pct_by_app\" is of type list"));
    let needed = "is part of what a row is known by: it can be kept or be a pseudonym, not dropped";
    assert_eq!(said(&class("device = \"drop\"")), format!("[privacy] \"device_id\" {needed}"));
    assert!(said(&column("registration_id = \"drop\"")).contains(needed));
    assert!(said(&column("timestamp = \"drop\"")).ends_with("it can be kept, not dropped"));
    for own in ["account_id", "collected_at", "sweep_id", "source", "unmapped"] {
        assert!(said(&column(&format!("{own} = \"drop\""))).contains("is written by the archive itself"));
        assert!(said(&column(&format!("{own} = \"pseudonym\""))).contains("is written by the archive itself"));
        assert_eq!(said(&column(&format!("{own} = \"keep\""))), "fine");
    }
    assert!(said(&class("person = \"pseudonym\"")).starts_with("[privacy] \"person_email\" is to be a pseudonym, but"));
    assert_eq!(said("unknown = \"drop\"\n[classes]\nlocation = \"drop\""), "fine");
}

#[test]
fn a_column_beats_its_class() {
    let policy = policy(
        "[classes]\ndevice = \"pseudonym\"\n[columns]\ndevice_id = \"keep\"\ndevice_name = \"drop\"\ncolo = \"pseudonym\"",
    );
    let treated: Vec<_> = policy.treated_columns().collect();
    let expect = [
        ("registration_id", Action::Pseudonym),
        ("colo", Action::Pseudonym),
        ("device_name", Action::Drop),
        ("device_registration", Action::Pseudonym),
        ("doh_subdomain", Action::Pseudonym),
    ];
    assert_eq!(treated, expect);
    assert_eq!(policy.unknown(), Unknown::Keep);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_marker_survives_and_nothing_else_changes(seed in any::<u64>()) {
        check_random(seed);
    }

    #[test]
    fn any_text_is_treated_or_replaced(text in "[{}\\[\\]\",:\\\\u0-9a-z ]{0,40}") {
        let said = applied(&policy("unknown = \"drop\"\n[classes]\ndevice = \"pseudonym\""), text.as_bytes());
        prop_assert!(crate::json::value(&said).is_ok(), "{}", said);
    }
}

/// Stands wherever something personal could.
const MARKER: &str = "Mark3r";
const NUMBER: &str = "4711471147";

fn check_random(seed: u64) {
    let mut dice = Dice(seed);
    let policy = random_policy(&mut dice);
    let before = Bodies { dice, policy: &policy }.body();
    let after = applied(&policy, before.as_bytes());
    assert_eq!(after, applied(&policy, before.as_bytes()), "the same body, the same text");
    for text in [&after, &unescaped(&after)] {
        assert!(!text.contains(MARKER) && !text.contains(NUMBER), "{after}\nof {before}");
    }
    assert_eq!(crate::json::value(&after).map(|_| ()), Ok(()), "{after}\nof {before}");
    match (read(&before), read(&after)) {
        (Some(before), Some(after)) => check_cells(&policy, &before, &after),
        (before, after) => assert!(before.is_none() && after.is_none()),
    }
}

fn check_cells(policy: &Policy, before: &RecordBatch, after: &RecordBatch) {
    let treated: Vec<&str> = policy.treated_columns().map(|(name, _)| name).collect();
    for column in &Schema::device_state().columns {
        let [was, is] = [before, after].map(|batch| batch.column_by_name(&column.name).expect("a column"));
        match &*column.name {
            "unmapped" => assert!(policy.unknown() == Unknown::Keep || is.is_null(0), "{is:?}"),
            name if treated.contains(&name) => (),
            name => assert!(was == is, "{name} was {was:?} and is {is:?}"),
        }
    }
}

fn read(body: &str) -> Option<RecordBatch> {
    let plan = Plan::new(Schema::device_state());
    let (mut row, mut columns) = (Row::default(), Columns::new(Arc::clone(plan.schema())));
    plan.flatten(body.as_bytes(), &mut row).ok()?;
    columns.push(&row);
    Some(columns.finish())
}

fn random_policy(dice: &mut Dice) -> Policy {
    let mut rules = Rules::default();
    let actions = [Action::Keep, Action::Drop, Action::Pseudonym];
    for class in ["person", "location", "network"] {
        rules.classes.insert(class.to_owned(), actions[dice.roll(3)]);
    }
    rules.classes.insert("apps".to_owned(), actions[dice.roll(2)]);
    rules.classes.insert("device".to_owned(), actions[dice.roll(2) * 2]);
    rules.columns.insert("device_name".to_owned(), actions[dice.roll(3)]);
    rules.columns.insert("cpu_pct".to_owned(), actions[dice.roll(2)]);
    rules.unknown = if dice.roll(2) == 0 { Unknown::Keep } else { Unknown::Drop };
    let policy = Policy::new(&Schema::device_state(), &rules, Some(key())).expect("a policy");
    if policy.active.is_some() { policy } else { random_policy(dice) }
}

/// What the letters of a text stand for, escapes read.
fn unescaped(text: &str) -> String {
    let mut parts = text.split("\\u");
    let mut said = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at(4);
        said.extend(u32::from_str_radix(digits, 16).ok().and_then(char::from_u32));
        said.push_str(rest);
    }
    said
}

/// Random choices, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, of: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed >> 33) % of as u64).expect("a small number")
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }
}

/// Writes bodies with a marker wherever the policy treats something, and nowhere else.
struct Bodies<'a> {
    dice: Dice,
    policy: &'a Policy,
}

impl Bodies<'_> {
    fn body(&mut self) -> String {
        let schema = Schema::device_state();
        let columns: Vec<&Column> = schema.columns.iter().filter(|column| column.path.is_some()).collect();
        let mut entries = self.entries(&columns, 0);
        if self.dice.roll(8) > 0 {
            entries.push(format!("\"deviceId\":{}", self.spelled("device")));
        }
        self.between("{", &entries, "}")
    }

    fn entries(&mut self, columns: &[&Column], depth: usize) -> Vec<String> {
        let mut by_key: BTreeMap<&str, Vec<&Column>> = BTreeMap::new();
        for &column in columns {
            by_key.entry(&column.path.as_ref().expect("a path")[depth]).or_default().push(column);
        }
        let mut entries = Vec::new();
        for (key, columns) in by_key {
            let is_leaf = columns[0].path.as_ref().is_some_and(|path| path.len() == depth + 1);
            for _ in 0..[0, 1, 1, 1, 2][self.dice.roll(5)] {
                let value = if is_leaf { self.value(columns[0]) } else { self.group(&columns, depth + 1) };
                entries.push(self.entry(key, &value));
            }
        }
        for _ in 0..self.dice.roll(3) {
            entries.push(self.unknown_entry());
        }
        for at in (1..entries.len()).rev() {
            entries.swap(at, self.dice.roll(at + 1));
        }
        entries
    }

    fn group(&mut self, columns: &[&Column], depth: usize) -> String {
        if self.dice.roll(6) > 0 {
            let entries = self.entries(columns, depth);
            return self.between("{", &entries, "}");
        }
        let treated = columns.iter().any(|column| self.is_treated(column)) || self.drops_unknown();
        let value = self.anything(treated);
        // An object is no stranger here: its entries would be read as any others.
        if value.starts_with('{') { "null".to_owned() } else { value }
    }

    fn value(&mut self, column: &Column) -> String {
        if self.is_treated(column) {
            return match self.dice.roll(2) {
                0 if column.kind == Kind::String => self.spelled(MARKER),
                0 if column.kind == Kind::List => self.list(column, true),
                _ => self.anything(true),
            };
        }
        if self.dice.roll(4) == 0 {
            // Of what does not fit, only an unknown value may be personal.
            let value = self.anything(self.drops_unknown());
            let fits = crate::flatten::fits(column.kind, &value) || value.starts_with('[') && column.kind == Kind::List;
            return if fits { "null".to_owned() } else { value };
        }
        match column.kind {
            Kind::String => self.spelled("plain"),
            Kind::Boolean => self.dice.one(&["true", "false"]).to_owned(),
            Kind::Int64 => self.dice.one(&["0", "-12", "1.5e1", "12.0"]).to_owned(),
            Kind::Float64 => self.dice.one(&["0", "-0.0", "1.50", "5e-324"]).to_owned(),
            Kind::Timestamp => self.dice.one(&["\"2026-11-24T07:40:51Z\"", "1696982400123"]).to_owned(),
            Kind::List => self.list(column, false),
        }
    }

    fn list(&mut self, column: &Column, personal: bool) -> String {
        let mut items = Vec::new();
        for _ in 0..self.dice.roll(3) {
            let element = match self.dice.roll(5) {
                0 => self.stranger(personal || self.drops_unknown()),
                _ => self.element(column, personal),
            };
            let nested = self.dice.roll(3) == 0;
            items.push(if nested { self.between("[", &[element], "]") } else { element });
        }
        self.between("[", &items, "]")
    }

    fn element(&mut self, column: &Column, personal: bool) -> String {
        let mut entries = Vec::new();
        for member in &column.fields {
            for _ in 0..[0, 1, 1, 2][self.dice.roll(4)] {
                let value = match (member.kind, self.dice.roll(4)) {
                    (_, 0) => self.stranger(personal || self.drops_unknown()),
                    (Kind::String, _) => self.spelled(if personal { MARKER } else { "app" }),
                    _ => "1.5".to_owned(),
                };
                let fits = !personal && crate::flatten::fits(member.kind, &value) && value.contains(NUMBER);
                entries.push(self.entry(&member.name, if fits { "2" } else { &value }));
            }
        }
        if self.dice.roll(2) == 0 {
            let value = self.anything(personal || self.drops_unknown());
            entries.push(self.entry("pid", &value));
        }
        self.between("{", &entries, "}")
    }

    /// A value that no scalar column takes.
    fn stranger(&mut self, personal: bool) -> String {
        let value = self.anything(personal);
        if value.starts_with('[') || value.contains("ud800") { value } else { "[]".to_owned() }
    }

    fn unknown_entry(&mut self) -> String {
        let key = self.dice.one(&["new", "DEVICEID", "person_email", "x.y", "", "names"]);
        let value = self.anything(self.drops_unknown());
        let marked = if self.drops_unknown() && self.dice.roll(3) == 0 { MARKER } else { key };
        self.entry(marked, &value)
    }

    fn anything(&mut self, personal: bool) -> String {
        let word = self.spelled(if personal { MARKER } else { "word" });
        let number = if personal { NUMBER } else { "7.0" };
        match self.dice.roll(7) {
            0 | 1 => word,
            2 => number.to_owned(),
            3 => format!("[{word}, [{number}]]"),
            4 => format!("{{\"deviceId\":{word},{word}:{number}}}"),
            5 => format!("\"\\ud800{}", &word[1..]),
            _ => "null".to_owned(),
        }
    }

    fn entry(&mut self, key: &str, value: &str) -> String {
        let space = self.dice.one(&["", " ", "\n"]);
        format!("{}{space}:{space}{value}", self.spelled(key))
    }

    /// A JSON string, now and then with escapes.
    fn spelled(&mut self, text: &str) -> String {
        let escapes = self.dice.roll(3) == 0;
        let letters = text.chars().map(|letter| {
            let spell_out = escapes && self.dice.roll(2) == 0;
            if spell_out { format!("\\u{:04x}", u32::from(letter)) } else { letter.to_string() }
        });
        format!("\"{}\"", letters.collect::<String>())
    }

    fn between(&mut self, open: &str, items: &[String], close: &str) -> String {
        let space = self.dice.one(&["", " ", "\t\n"]);
        format!("{open}{space}{}{space}{close}", items.join(&format!("{space},{space}")))
    }

    fn is_treated(&self, column: &Column) -> bool {
        self.policy.treated_columns().any(|(name, _)| name == column.name)
    }

    fn drops_unknown(&self) -> bool {
        self.policy.unknown() == Unknown::Drop
    }
}

#[test]
fn only_what_looks_like_one_is_a_pseudonym() {
    assert!(is_pseudonym("p-0123456789abcdef0123456789abcdef"));
    assert!(!is_pseudonym("p-mueller@example.com"));
}
