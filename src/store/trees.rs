//! What is known of the trees of payloads, and what has come of them.
//!
//! | file | what |
//! | --- | --- |
//! | `deployments/ID/manifest` | the list of the payload's tree, as gzip |
//! | `deployments/ID/objects` | what an earlier upload had brought of a delta, as records |
//! | `store/X/prepared` | the list that somebody is about to send the objects of |
//! | `store/X/partial` | what an upload brought that was cut: records, or an archive that is made into records when they are asked for |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::error::{Doing, Error};
use crate::api::name::{DeploymentId, Project};
use crate::api::record::Record;
use crate::formats::delta::records::{DeltaHead, LAST_KIND, MAGIC, RecordScanner, content};
use crate::store::Store;
use crate::system::files::{self, Durability, gone, if_there};
use crate::system::memory::{Pages, Room};

/// How long what came of a cut upload is kept: whoever tries again does so within a day.
const PARTIAL_LASTS: Duration = Duration::from_secs(24 * 60 * 60);
/// What came of an archive is kept from here on; less is sent again as quickly.
const ARCHIVE_KEPT: u64 = 1 << 20;
/// What is read of records at once, to find them.
const READ_AT_ONCE: usize = 256 << 10;

impl Store {
    /// What is kept of a component beside its releases and deployments: it may be deleted at any time.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn component_store(&self, project: &Project) -> Result<PathBuf, Error> {
        let dir = self.component_store_path(project);
        files::make_dirs(&dir, 0o700).doing(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    pub fn component_store_path(&self, project: &Project) -> PathBuf {
        self.root().join("store").join(project.as_str())
    }

    /// The list of the tree that somebody is about to send.
    pub fn prepared(&self, project: &Project) -> PathBuf {
        self.component_store_path(project).join("prepared")
    }

    /// What a cut upload of a component has brought.
    pub fn partial(&self, project: &Project) -> PathBuf {
        self.component_store_path(project).join("partial")
    }

    /// What an earlier upload has brought for a deployment.
    pub fn objects(&self, id: DeploymentId) -> PathBuf {
        self.deployment(id).join("objects")
    }

    /// Takes what a cut upload of the component has brought over for a deployment. None if there is nothing, or if it is
    /// too old.
    ///
    /// # Errors
    /// When it is there and cannot be taken.
    pub fn take_partial(&self, project: &Project, id: DeploymentId) -> Result<Option<File>, Error> {
        let (from, to) = (self.partial(project), self.objects(id));
        let what = || format!("taking {}", from.display());
        let Some(meta) = if_there(fs::metadata(&from)).doing(what)? else {
            return Ok(None);
        };
        let old = meta
            .modified()
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > PARTIAL_LASTS));
        if old {
            gone(fs::remove_file(&from)).doing(what)?;
            return Ok(None);
        }
        fs::rename(&from, &to).doing(what)?;
        File::open(&to).doing(what).map(Some)
    }

    /// Keeps what a payload that was cut has brought, if it is a delta: its whole records, and those that were taken over
    /// from an earlier one. Says whether there is something.
    ///
    /// # Errors
    /// When it cannot be read or kept: it is only a matter of sending it again.
    pub fn keep_partial(&self, project: &Project, id: DeploymentId) -> Result<bool, Error> {
        let what = || format!("keeping what came for deployment {id}");
        let Some((mut payload, _)) = self.open_payload(id)? else {
            return Ok(false);
        };
        let records = whole_records(&mut payload).doing(what)?;
        let path = self.objects(id);
        if records.is_none() && !path.exists() {
            return Ok(false);
        }
        let (from, to) = records.unwrap_or_default();
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let mut objects = options.open(&path).doing(what)?;
        // A server that was killed while it did this has written a part of a record.
        let whole = true_records(&objects).doing(what)?;
        objects.set_len(whole).doing(what)?;
        payload.seek(SeekFrom::Start(from)).doing(what)?;
        io::copy(&mut payload.take(to - from), &mut objects).doing(what)?;
        if objects.metadata().doing(what)?.len() == 0 {
            fs::remove_file(&path).doing(what)?;
            return Ok(false);
        }
        self.component_store(project)?;
        fs::rename(&path, self.partial(project)).doing(what)?;
        Ok(true)
    }

    /// Keeps what came of an archive that was cut, if it is more than what is kept of an earlier one.
    ///
    /// # Errors
    /// When it cannot be kept: it is only a matter of sending it again.
    pub fn keep_archive(&self, project: &Project, id: DeploymentId) -> Result<(), Error> {
        let what = || format!("keeping what came for deployment {id}");
        let (from, to) = (self.payload(id), self.partial(project));
        let length = |path: &Path| -> Result<u64, Error> {
            let meta = if_there(fs::metadata(path)).doing(what)?;
            Ok(meta.map_or(0, |meta| meta.len()))
        };
        let came = length(&from)?;
        if came < ARCHIVE_KEPT || came <= length(&to)? {
            return Ok(());
        }
        self.component_store(project)?;
        fs::rename(&from, &to).doing(what)
    }

    /// What a cut upload of a component has brought, as records; `salvage` writes those of an archive. None if there is
    /// nothing.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn partial_records(
        &self,
        project: &Project,
        fresh: &Path,
        salvage: &mut dyn FnMut(&File, &File) -> Result<(), Error>,
    ) -> Result<Option<File>, Error> {
        let path = self.partial(project);
        let what = || format!("reading {}", path.display());
        let Some(mut file) = if_there(File::open(&path)).doing(what)? else {
            return Ok(None);
        };
        let mut kind = [0];
        let read = file.read(&mut kind).doing(what)?;
        if read == 0 || kind[0] <= LAST_KIND {
            file.rewind().doing(what)?;
            return Ok(Some(file));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let what = || format!("writing {}", fresh.display());
        let mut records = options.mode(0o600).open(fresh).doing(what)?;
        let written = salvage(&file, &records).and_then(|()| fs::rename(fresh, &path).doing(what));
        if let Err(error) = written {
            // What is left of it takes the room that it lacked.
            let _ = fs::remove_file(fresh);
            return Err(error);
        }
        records.rewind().doing(what)?;
        Ok(Some(records))
    }

    /// Removes what a cut upload of a component has brought.
    ///
    /// # Errors
    /// When it stays.
    pub fn drop_partial(&self, project: &Project) -> Result<(), Error> {
        let path = self.partial(project);
        gone(fs::remove_file(&path)).doing(|| format!("removing {}", path.display()))
    }

    /// Removes what an earlier upload has brought for a deployment.
    ///
    /// # Errors
    /// When it stays.
    pub fn drop_objects(&self, id: DeploymentId) -> Result<(), Error> {
        let path = self.objects(id);
        gone(fs::remove_file(&path)).doing(|| format!("removing {}", path.display()))
    }

    /// The file that lists the tree of a deployment's payload, as gzip.
    pub fn tree_list(&self, id: DeploymentId) -> PathBuf {
        self.deployment(id).join("manifest")
    }

    /// Puts the list of a deployment's tree in its place, unless the deployment is gone. It can be made again from the
    /// payload, so nothing of it is forced to disk.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn put_list(&self, id: DeploymentId, list: &[u8]) -> Result<(), Error> {
        let (fresh, path) = (self.fresh_beside(id), self.tree_list(id));
        files::replace_through(&fresh, &path, list, 0o600, Durability::Either)
            .doing(|| format!("writing {}", path.display()))
    }

    /// Writes down which tree a deployment that has ended has, unless it is gone.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn put_tree(&self, record: &Record) -> Result<(), Error> {
        let fresh = self.fresh_beside(record.deployment_id);
        let path = self.deployment(record.deployment_id).join("record.json");
        let what = || format!("writing {}", path.display());
        let mut text = serde_json::to_vec_pretty(record).doing(what)?;
        text.push(b'\n');
        // Not as other records: if the disk does not take this one, the old one is as good.
        files::replace_through(&fresh, &path, &text, 0o600, Durability::Either).doing(what)
    }

    /// Where something new of a deployment that has ended is written. A start looks only after deployments that had not, but
    /// it sweeps the names that begin with a dot.
    pub fn fresh_beside(&self, id: DeploymentId) -> PathBuf {
        self.root().join("deployments").join(format!(".{id}-new"))
    }
}

/// Where the last record ends up to which all are what their hashes say.
fn true_records(mut records: &File) -> io::Result<u64> {
    let (mut scanner, mut buffer) = (RecordScanner::at(0), Pages::new(READ_AT_ONCE));
    let (mut stored, mut plain) = (Room::default(), Room::default());
    let (mut end, mut is_true) = (0, true);
    while is_true {
        let read = records.read(&mut buffer)?;
        let scanned = scanner.push(&buffer[..read], &mut |object| {
            let stored = stored.resize(object.stored as usize);
            is_true = is_true
                && records.read_exact_at(stored, object.at).is_ok()
                && content(&object, stored, &mut plain);
            if is_true {
                end = object.at + u64::from(object.stored);
            }
        });
        if read == 0 || scanned.is_err() {
            break;
        }
    }
    Ok(end)
}

/// Where the whole records of a delta begin and end; none of what is not a delta, or has none.
fn whole_records(payload: &mut File) -> io::Result<Option<(u64, u64)>> {
    let mut magic = [0; MAGIC.len()];
    let begun = payload.read_exact(&mut magic).and_then(|()| {
        if magic != MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let head = DeltaHead::read(payload)?;
        // What lies before the records has a length that its sender chose.
        let list = i64::try_from(head.list).map_err(io::Error::other)?;
        payload.seek(SeekFrom::Current(list))
    });
    let Ok(from) = begun else { return Ok(None) };
    let mut scanner = RecordScanner::at(from);
    let mut buffer = Pages::new(READ_AT_ONCE);
    loop {
        match payload.read(&mut buffer)? {
            0 => break,
            // What is damaged ends it.
            read if scanner.push(&buffer[..read], &mut |_| ()).is_err() => break,
            _ => {}
        }
    }
    Ok((scanner.whole > from).then_some((from, scanner.whole)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::delta::hash::ContentHash;
    use crate::formats::delta::records::RecordWriter;
    use crate::store::root::tests::Root;

    fn records(contents: &[&[u8]]) -> Vec<u8> {
        let mut writer = RecordWriter::new(Vec::new(), 0);
        for content in contents {
            writer.object(ContentHash::of(content), content).unwrap();
        }
        writer.end().unwrap()
    }

    #[test]
    fn what_was_kept_half_when_the_server_was_killed_spoils_nothing_that_came() {
        let root = Root::new("partial");
        let store = Store::open(&root.0, Duration::ZERO).unwrap();
        let (project, id) = (
            "demo".parse().unwrap(),
            DeploymentId::after(None, 1, [0; 10]),
        );
        store.create_deployment(id).unwrap();
        let end = 5;
        let (earlier, came) = (records(&[b"one", b"two"]), records(&[b"three", b"four"]));
        let (earlier, whole) = (&earlier[..earlier.len() - end], &came[..came.len() - end]);
        let head = DeltaHead {
            base: None,
            tree: String::new(),
            list: 0,
            difference: false,
        };
        let mut payload = Vec::new();
        head.write(&mut payload).unwrap();
        payload.extend(&came);
        let wrong = [&earlier[..earlier.len() - 1], b"x"].concat();
        let one = earlier.len() / 2;
        for (objects, kept) in [
            (earlier.to_vec(), earlier),
            // A part of what came was there already, cut within a head, or within a content.
            ([earlier, &whole[..10]].concat(), earlier),
            (
                [earlier, &whole[..whole.len() - 1]].concat(),
                &[earlier, &whole[..46]].concat(),
            ),
            (wrong, &earlier[..one]),
            (vec![0; 100], b""),
        ] {
            fs::write(store.payload(id), &payload).unwrap();
            fs::write(store.objects(id), &objects).unwrap();
            assert!(store.keep_partial(&project, id).unwrap());
            let found = fs::read(store.partial(&project)).unwrap();
            assert_eq!(found, [kept, whole].concat());
        }
    }
}
