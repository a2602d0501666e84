//! Typed tables: each record is one byte of format version and JSON, so that what a person finds in a bug
//! report can be read.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use holdfast_core::digest::Digest;
use holdfast_core::name::AppName;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Database;
use crate::error::StoreError;
use crate::fault;

/// The largest record, in bytes. Some 500 objects of an app take 50 KB.
pub const RECORD_LIMIT: usize = 1024 * 1024;

/// What can be kept in a table.
pub trait Record: Serialize + DeserializeOwned {
    /// The version of the form in which it is written. Raise it when older records don't read as they are.
    const FORMAT: u8 = 1;

    /// Reads a record of another version; by default there is none.
    fn from_format(format: u8, _json: &[u8]) -> Result<Self, String> {
        Err(format!("it is of format {format}, which this agent doesn't know"))
    }
}

/// What a record can be called. The order of keys is that of their bytes.
pub trait Key: Ord + Sized {
    /// The key's bytes.
    fn to_bytes(&self) -> Vec<u8>;
    /// The key of these bytes, if they are one.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl Key for u64 {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(u64::from_be_bytes)
    }
}

impl Key for String {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

impl Key for AppName {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_str().as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok()?.parse().ok()
    }
}

impl Key for Digest {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Digest::from_bytes)
    }
}

/// Changes that are made all at once. Tables of one name may share one.
#[derive(Default)]
pub(crate) struct Staged {
    changes: Vec<Change>,
}

/// A record's key, and what it becomes.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// A table. Cheap to make; stays good when the database is rebuilt.
#[derive(Debug)]
pub struct Table<K, V> {
    db: Database,
    name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Table { db: self.db.clone(), name: self.name, types: PhantomData }
    }
}

impl<K: Key, V: Record> Table<K, V> {
    pub(super) fn new(db: Database, name: &'static str) -> Self {
        Table { db, name, types: PhantomData }
    }

    /// The record of `key`.
    pub fn get(&self, key: &K) -> Result<Option<V>, StoreError> {
        let bytes = self.read(|tree| tree.get(key.to_bytes()))?;
        bytes.map(|bytes| self.decode(&bytes)).transpose()
    }

    /// Keeps `value`; gives whether it differs from what was there. What is equal is not written.
    pub fn put(&self, key: &K, value: &V) -> Result<bool, StoreError> {
        self.change(std::iter::once((key, Some(value))))
    }

    /// Removes the record of `key`; gives whether there was one.
    pub fn remove(&self, key: &K) -> Result<bool, StoreError> {
        self.change(std::iter::once((key, None)))
    }

    /// Puts and removes several records, all of them or, after a crash, none; gives whether anything
    /// differed. What is equal is not written.
    pub fn change<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a K, Option<&'a V>)>,
    ) -> Result<bool, StoreError>
    where
        K: 'a,
        V: 'a,
    {
        let mut staged = Staged::default();
        for (key, value) in changes {
            self.stage(&mut staged, key, value)?;
        }
        self.apply(staged)
    }

    /// Adds a change to `staged`. What is equal to what is there is left out.
    pub(crate) fn stage(&self, staged: &mut Staged, key: &K, value: Option<&V>) -> Result<(), StoreError> {
        let key = key.to_bytes();
        let before = self.read(|tree| tree.get(&key))?;
        match value {
            Some(value) => {
                let bytes = self.encode(value)?;
                if before.is_none_or(|before| before != bytes) {
                    staged.changes.push((key, Some(bytes)));
                }
            }
            None if before.is_some() => staged.changes.push((key, None)),
            None => {}
        }
        Ok(())
    }

    /// Does what was staged, all of it or, after a crash, nothing; gives whether anything differed.
    pub(crate) fn apply(&self, staged: Staged) -> Result<bool, StoreError> {
        let differs = !staged.changes.is_empty();
        if differs {
            self.db.change(self.name, staged.changes)?;
            fault::point("db.record-written");
        }
        Ok(differs)
    }

    /// Makes the table hold `records` and nothing else, all at once; gives whether it differed.
    pub fn replace(&self, records: &BTreeMap<K, V>) -> Result<bool, StoreError> {
        let unwanted: Vec<K> = self.keys()?.into_iter().filter(|key| !records.contains_key(key)).collect();
        let removals = unwanted.iter().map(|key| (key, None));
        self.change(removals.chain(records.iter().map(|(key, value)| (key, Some(value)))))
    }

    /// Every record.
    pub fn all(&self) -> Result<BTreeMap<K, V>, StoreError> {
        let entries = self.read(|tree| tree.iter().collect::<sled::Result<Vec<_>>>())?;
        entries.iter().map(|(key, bytes)| Ok((self.key(key)?, self.decode(bytes)?))).collect()
    }

    /// Every key, in order.
    pub fn keys(&self) -> Result<Vec<K>, StoreError> {
        let keys = self.read(|tree| tree.iter().keys().collect::<sled::Result<Vec<_>>>())?;
        keys.iter().map(|key| self.key(key)).collect()
    }

    /// Up to `limit` records whose keys are `from` or higher, in order.
    pub fn from(&self, from: &K, limit: usize) -> Result<Vec<(K, V)>, StoreError> {
        let start = from.to_bytes();
        let entries =
            self.read(|tree| tree.range(start.as_slice()..).take(limit).collect::<sled::Result<Vec<_>>>())?;
        entries.iter().map(|(key, bytes)| Ok((self.key(key)?, self.decode(bytes)?))).collect()
    }

    /// The record with the highest key that is `from` or higher.
    pub fn last_from(&self, from: &K) -> Result<Option<(K, V)>, StoreError> {
        let start = from.to_bytes();
        self.edge(|tree| tree.range(start.as_slice()..).next_back().transpose())
    }

    /// The record with the lowest key.
    pub fn first(&self) -> Result<Option<(K, V)>, StoreError> {
        self.edge(|tree| tree.first())
    }

    /// The record with the highest key.
    pub fn last(&self) -> Result<Option<(K, V)>, StoreError> {
        self.edge(|tree| tree.last())
    }

    fn edge(
        &self,
        work: impl FnMut(&sled::Tree) -> sled::Result<Option<(sled::IVec, sled::IVec)>>,
    ) -> Result<Option<(K, V)>, StoreError> {
        let entry = self.read(work)?;
        entry.map(|(key, bytes)| Ok((self.key(&key)?, self.decode(&bytes)?))).transpose()
    }

    /// Reads the tree; one that was never written reads as empty, and is not made for that.
    fn read<T: Default>(
        &self,
        mut work: impl FnMut(&sled::Tree) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        let doing = format!("read {}", self.name);
        self.db.with(&doing, |db| {
            if db.tree_names().iter().any(|name| name == self.name.as_bytes()) {
                work(&db.open_tree(self.name)?)
            } else {
                Ok(T::default())
            }
        })
    }

    fn encode(&self, value: &V) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![V::FORMAT];
        serde_json::to_writer(&mut bytes, value)
            .map_err(|cause| StoreError::Encode { what: self.name, cause })?;
        let size = bytes.len();
        if size > RECORD_LIMIT {
            return Err(StoreError::RecordTooLarge { table: self.name, size, limit: RECORD_LIMIT });
        }
        Ok(bytes)
    }

    fn decode(&self, bytes: &[u8]) -> Result<V, StoreError> {
        let value = match bytes.split_first() {
            None => Err("it is empty".to_owned()),
            Some((&format, json)) if format == V::FORMAT => {
                serde_json::from_slice(json).map_err(|error| error.to_string())
            }
            Some((&format, json)) => V::from_format(format, json),
        };
        value.map_err(|cause| {
            self.db.note_damage(&format!("a record of {}: {cause}", self.name));
            StoreError::Damaged { doing: format!("read a record of {}", self.name), cause }
        })
    }

    fn key(&self, bytes: &[u8]) -> Result<K, StoreError> {
        K::from_bytes(bytes).ok_or_else(|| {
            let cause =
                format!("it doesn't have the table's type: {}", hex::encode(&bytes[..bytes.len().min(40)]));
            self.db.note_damage(&format!("a key of {}: {cause}", self.name));
            StoreError::Damaged { doing: format!("read a key of {}", self.name), cause }
        })
    }
}
