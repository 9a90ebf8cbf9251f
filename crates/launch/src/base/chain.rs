//! Which bases a launch stands on: computed from image and recipes, without looking at any disk.

use agent_vm_image::ImageDigest;
use serde::Serialize;

use super::record::{BaseId, BaseProject, BaseRecord, Level};
use super::{Recipe, SetupRequest};

/// Part of every base's name: bases made in another way get other names.
const KEY_FORMAT: u32 = 1;

/// The bases of a launch, bottom first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) links: Vec<Link>,
    /// Changes kept by hand that do not stand on these bases, and so are not used.
    pub(crate) strays: Vec<BaseRecord>,
}

/// One base of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) level: Level,
    pub(crate) id: BaseId,
    /// The base of the recipe or by hand right below it.
    pub(crate) parent: Option<BaseId>,
    pub(crate) origin: LinkOrigin,
}

/// Where a base of a chain comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkOrigin {
    /// Made by the level's recipe; can be made when it is missing.
    Recipe,
    /// Changes kept by hand; there already.
    Hand,
}

impl Chain {
    /// The chain up to and with `level`. `hand` gives the changes kept by hand for a level.
    pub(crate) fn new(
        manifest: ImageDigest,
        project: &BaseProject,
        setup: &SetupRequest,
        level: Level,
        hand: impl Fn(Level) -> Option<BaseRecord>,
    ) -> Self {
        let mut chain = Self {
            links: Vec::new(),
            strays: Vec::new(),
        };
        for at in [Level::User, Level::Project] {
            if at > level {
                break;
            }
            let recipe = setup.recipe(at);
            if !recipe.is_empty() {
                let parent = chain.top();
                let id = key(manifest, parent.as_ref(), at, project, recipe);
                chain.push(at, id, parent, LinkOrigin::Recipe);
            }
            if let Some(kept) = hand(at) {
                let parent = chain.top();
                if kept.parent == parent && kept.image_manifest == manifest.to_string() {
                    chain.push(at, kept.id, parent, LinkOrigin::Hand);
                } else {
                    chain.strays.push(kept);
                }
            }
        }
        chain
    }

    /// The base the next disk is cloned from.
    pub(crate) fn top(&self) -> Option<BaseId> {
        self.links.last().map(|link| link.id.clone())
    }

    /// What changes made by hand at `level` stand on: the topmost base that is not such changes of that level.
    pub(crate) fn below_hand(&self, level: Level) -> Option<BaseId> {
        let is_hand = |link: &&Link| link.level == level && link.origin == LinkOrigin::Hand;
        let below = self.links.iter().rev().find(|link| !is_hand(link));
        below.map(|link| link.id.clone())
    }

    fn push(&mut self, level: Level, id: BaseId, parent: Option<BaseId>, origin: LinkOrigin) {
        self.links.push(Link {
            level,
            id,
            parent,
            origin,
        });
    }
}

/// Everything a base depends on, in one fixed form.
#[derive(Serialize)]
struct Key<'a> {
    format: u32,
    manifest: String,
    parent: Option<&'a str>,
    project: Option<&'a str>,
    packages: &'a [String],
    scripts: Vec<String>,
    mounts: Vec<(String, String)>,
}

fn key(
    manifest: ImageDigest,
    parent: Option<&BaseId>,
    level: Level,
    project: &BaseProject,
    recipe: &Recipe,
) -> BaseId {
    let scripts = recipe.scripts.iter();
    let mounts = recipe.mounts.iter();
    let key = Key {
        format: KEY_FORMAT,
        manifest: manifest.to_string(),
        parent: parent.map(BaseId::as_str),
        project: (level == Level::Project).then_some(project.id.as_str()),
        packages: &recipe.packages,
        scripts: scripts
            .map(|script| ImageDigest::of(&script.content).to_string())
            .collect(),
        mounts: mounts
            .map(|mount| {
                let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
                (text(&mount.host), text(&mount.guest))
            })
            .collect(),
    };
    BaseId::of(&serde_json::to_vec(&key).expect("a key is plain text and numbers"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::{BaseKind, SetupScript};

    pub(in super::super) fn project(id: &str) -> BaseProject {
        BaseProject {
            id: id.to_owned(),
            path: format!("/{id}").into(),
        }
    }

    pub(in super::super) fn recipe(script: &str) -> Recipe {
        Recipe {
            scripts: vec![SetupScript {
                name: "setup.sh".to_owned(),
                content: script.as_bytes().to_vec(),
            }],
            ..Recipe::default()
        }
    }

    fn setup(user: &str, project: &str) -> SetupRequest {
        let of = |text: &str| {
            if text.is_empty() {
                Recipe::default()
            } else {
                recipe(text)
            }
        };
        SetupRequest {
            user: of(user),
            project: of(project),
            ..SetupRequest::default()
        }
    }

    fn ids(image: &str, project_id: &str, setup: &SetupRequest) -> Vec<BaseId> {
        let manifest = ImageDigest::of(image.as_bytes());
        let chain = Chain::new(
            manifest,
            &project(project_id),
            setup,
            Level::Project,
            |_| None,
        );
        chain.links.into_iter().map(|link| link.id).collect()
    }

    #[test]
    fn the_users_base_is_shared_and_a_projects_base_is_not() {
        let both = setup("u", "p");
        let (one, two) = (ids("i", "one", &both), ids("i", "two", &both));
        assert_eq!(one.len(), 2);
        assert_eq!(one[0], two[0]);
        assert_ne!(one[1], two[1]);
    }

    #[test]
    fn a_name_depends_on_everything_a_base_is_made_of() {
        let before = ids("i", "p", &setup("u", "p"));
        assert_eq!(before, ids("i", "p", &setup("u", "p")));
        let image = ids("other", "p", &setup("u", "p"));
        assert!(image[0] != before[0] && image[1] != before[1]);
        let user = ids("i", "p", &setup("u2", "p"));
        assert!(user[0] != before[0] && user[1] != before[1]);
        let script = ids("i", "p", &setup("u", "p2"));
        assert!(script[0] == before[0] && script[1] != before[1]);
        let alone = ids("i", "p", &setup("", "p"));
        assert!(alone.len() == 1 && alone[0] != before[1]);
        let mut packages = setup("u", "p");
        packages.project.packages.push("jq".to_owned());
        assert_ne!(ids("i", "p", &packages)[1], before[1]);
    }

    #[test]
    fn no_recipe_is_no_base() {
        assert_eq!(ids("i", "p", &setup("", "")), []);
        let mut only_mounts = setup("", "");
        only_mounts.user.mounts = Vec::new();
        assert_eq!(ids("i", "p", &only_mounts), []);
    }

    fn kept(level: Level, parent: Option<BaseId>, image: &str) -> BaseRecord {
        BaseRecord {
            format: 1,
            id: BaseId::of(b"by hand"),
            level,
            kind: BaseKind::Snapshot,
            image_manifest: ImageDigest::of(image.as_bytes()).to_string(),
            image: "i".to_owned(),
            parent,
            project: None,
            steps: Vec::new(),
            disk_bytes: 0,
            made: 0,
        }
    }

    #[test]
    fn changes_by_hand_are_used_on_the_base_they_were_made_on_and_on_no_other() {
        let both = setup("u", "p");
        let recipes = ids("i", "p", &both);
        let manifest = ImageDigest::of(b"i");
        let with = |record: BaseRecord, level: Level| {
            let hand = |at| (at == level).then(|| record.clone());
            Chain::new(manifest, &project("p"), &both, Level::Project, hand)
        };
        let top = with(
            kept(Level::Project, Some(recipes[1].clone()), "i"),
            Level::Project,
        );
        assert_eq!(top.top(), Some(BaseId::of(b"by hand")));
        assert_eq!(top.below_hand(Level::Project), Some(recipes[1].clone()));
        // What is kept on the user's base changes what the project's base stands on.
        let middle = with(
            kept(Level::User, Some(recipes[0].clone()), "i"),
            Level::User,
        );
        assert_eq!(middle.links.len(), 3);
        assert_ne!(middle.top(), Some(recipes[1].clone()));
        for stray in [
            kept(Level::Project, None, "i"),
            kept(Level::Project, Some(recipes[1].clone()), "older"),
        ] {
            let chain = with(stray, Level::Project);
            assert_eq!(
                (chain.top(), chain.strays.len()),
                (Some(recipes[1].clone()), 1)
            );
        }
    }

    #[test]
    fn a_chain_ends_at_the_level_asked_for() {
        let manifest = ImageDigest::of(b"i");
        let both = setup("u", "p");
        let chain = Chain::new(manifest, &project("p"), &both, Level::User, |_| None);
        assert_eq!(chain.links.len(), 1);
        assert_eq!(chain.links[0].level, Level::User);
    }
}
