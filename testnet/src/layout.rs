//! Which nodes a network has and where they stand: plain data, no processes.

/// A building: its name on the command line and in records, and in Korean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Building {
    pub(crate) name: &'static str,
    pub(crate) korean: &'static str,
}

impl Building {
    /// Whether somebody means this building by that name.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name) || self.korean == name
    }

    /// Both names.
    pub(crate) fn both(&self) -> String {
        format!("{} {}", self.name, self.korean)
    }
}

/// The buildings there can be, in the order in which they are used.
pub(crate) const BUILDINGS: [Building; 16] = [
    Building {
        name: "pangyo",
        korean: "판교",
    },
    Building {
        name: "anyang",
        korean: "안양",
    },
    Building {
        name: "busan",
        korean: "부산",
    },
    Building {
        name: "jeju",
        korean: "제주",
    },
    Building {
        name: "daegu",
        korean: "대구",
    },
    Building {
        name: "gwangju",
        korean: "광주",
    },
    Building {
        name: "daejeon",
        korean: "대전",
    },
    Building {
        name: "incheon",
        korean: "인천",
    },
    Building {
        name: "suwon",
        korean: "수원",
    },
    Building {
        name: "ulsan",
        korean: "울산",
    },
    Building {
        name: "sejong",
        korean: "세종",
    },
    Building {
        name: "jeonju",
        korean: "전주",
    },
    Building {
        name: "gangneung",
        korean: "강릉",
    },
    Building {
        name: "yeosu",
        korean: "여수",
    },
    Building {
        name: "chuncheon",
        korean: "춘천",
    },
    Building {
        name: "mokpo",
        korean: "목포",
    },
];

/// Where one node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Unique in the network: `pangyo-1`.
    pub(crate) name: String,
    /// Index of its building.
    pub(crate) building: usize,
    /// For how many newcomers it offers to keep.
    pub(crate) newcomers: usize,
}

/// A network to be. The first place is the bootstrap node of all others.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Network id.
    pub(crate) network: String,
    pub(crate) buildings: Vec<Building>,
    pub(crate) places: Vec<Place>,
    /// After how many seconds of silence keepers are replaced; `None`: as the daemon does by itself.
    pub(crate) replace_after: Option<u64>,
}

impl Layout {
    /// Nodes spread evenly over the first `buildings` names, the first ones in the first building.
    pub(crate) fn even(nodes: usize, buildings: usize, newcomers: usize, network: &str) -> Self {
        let mut counts = vec![0; buildings];
        let places = (0..nodes)
            .map(|node| {
                let building = node * buildings / nodes;
                counts[building] += 1;
                let name = format!("{}-{}", BUILDINGS[building].name, counts[building]);
                Place {
                    name,
                    building,
                    newcomers,
                }
            })
            .collect();
        Self {
            network: network.to_owned(),
            buildings: BUILDINGS[..buildings].to_vec(),
            places,
            replace_after: None,
        }
    }

    /// A building opens, with new nodes that nobody knows; returns its index. It has a name that no
    /// building has, or that of one that burned.
    pub(crate) fn open(&mut self, nodes: usize, newcomers: usize, burned: &[usize]) -> usize {
        let stands = |name: &Building| {
            self.buildings
                .iter()
                .enumerate()
                .any(|(index, building)| building == name && !burned.contains(&index))
        };
        let index = self.buildings.len();
        let building = (index..index + BUILDINGS.len())
            .map(|place| BUILDINGS[place % BUILDINGS.len()])
            .find(|building| !stands(building))
            .unwrap_or(BUILDINGS[0]);
        self.buildings.push(building);
        for _ in 0..nodes {
            let same = |place: &&Place| self.buildings[place.building] == building;
            let number = self.places.iter().filter(same).count() + 1;
            self.places.push(Place {
                name: format!("{}-{number}", building.name),
                building: index,
                newcomers,
            });
        }
        index
    }

    /// Who runs the nodes of a building.
    pub(crate) fn operator(&self, building: usize) -> String {
        format!("{}-cooperative", self.buildings[building].name)
    }

    /// The nodes of a building.
    pub(crate) fn nodes_in(&self, building: usize) -> Vec<usize> {
        (0..self.places.len())
            .filter(|&node| self.places[node].building == building)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn nodes_are_spread_evenly_and_have_names_of_their_own() {
        for (nodes, buildings) in [(12, 4), (8, 4), (13, 4), (5, 5), (7, 3)] {
            let layout = Layout::even(nodes, buildings, 9, "test");
            let names: BTreeSet<_> = layout.places.iter().map(|place| &place.name).collect();
            assert_eq!(names.len(), nodes);
            let sizes: Vec<_> = (0..buildings).map(|b| layout.nodes_in(b).len()).collect();
            let spread = sizes.iter().max().unwrap() - sizes.iter().min().unwrap();
            assert!(spread <= 1, "{sizes:?}");
        }
    }

    #[test]
    fn a_new_building_has_a_name_and_nodes_that_none_had() {
        let mut layout = Layout::even(8, 4, 8, "test");
        let mut burned = Vec::new();
        for round in 0..40 {
            burned.push(round);
            let open = layout.open(2, 8, &burned);
            assert_eq!(layout.nodes_in(open).len(), 2);
            let standing: Vec<_> = (0..layout.buildings.len())
                .filter(|building| !burned.contains(building))
                .map(|building| layout.buildings[building].name)
                .collect();
            assert_eq!(standing.iter().collect::<BTreeSet<_>>().len(), 4);
        }
        let names: BTreeSet<_> = layout.places.iter().map(|place| &place.name).collect();
        assert_eq!(names.len(), layout.places.len());
    }

    #[test]
    fn the_bootstrap_node_stands_in_the_first_building() {
        assert_eq!(Layout::even(12, 4, 24, "test").places[0].name, "pangyo-1");
    }
}
