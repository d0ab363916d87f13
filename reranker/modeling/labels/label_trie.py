"""Labels as token sequences → a trie, and every label's log-probability from the logits at the trie's inner nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Path = tuple[int, ...]


@dataclass(frozen=True)
class LabelTrie:
    """Labels of one token or more. The tokens that may follow a node are the node's children.

    A label's probability is that of its path: at each node the softmax over the node's children alone, as though the
    answer were decoded under the constraint that it is a label. So the labels' probabilities sum to 1.

    Attributes:
        paths: the tokens of each label. A label that other labels begin with ends with the end of the answer.
        tokens: all tokens of the paths; if each label is one token, they are in the order of the labels.
        nodes: the paths to the nodes that have children, without the root; a node stands after those before it.
    """

    paths: tuple[Path, ...]
    tokens: tuple[int, ...]
    nodes: tuple[Path, ...]
    _weights: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def of(labels: Sequence[Sequence[int]], end: int | None) -> LabelTrie:
        """
        Args:
            labels: token ids of each label; no two are the same.
            end: the token that ends an answer.

        Raises:
            ValueError: two labels are the same, or one begins with another and there is no token to end an answer.
        """
        plain = [tuple(ids) for ids in labels]
        begun = {ids[:length] for ids in plain for length in range(1, len(ids))}
        if len(set(plain)) < len(plain):
            raise ValueError("two labels have the same tokens")
        if end is None and begun & set(plain):
            raise ValueError("one label begins with another, and no token ends an answer")
        paths = tuple((*ids, end) if ids in begun and end is not None else ids for ids in plain)
        tokens = tuple(dict.fromkeys(token for ids in paths for token in ids))
        nodes = dict.fromkeys(ids[:length] for ids in paths for length in range(1, len(ids)))
        return LabelTrie(paths, tokens, tuple(sorted(nodes, key=len)))

    @property
    def is_flat(self) -> bool:
        """Whether every label is one token."""
        return not self.nodes

    @property
    def positions(self) -> int:
        """At how many positions logits are needed: after the prompt, and after each of `node_tokens` behind it."""
        return 1 + len(self.nodes)

    @property
    def node_tokens(self) -> list[int]:
        """The last token of the path to each node: what is appended to a prompt."""
        return [path[-1] for path in self.nodes]

    def depths(self) -> Tensor:
        """How many tokens each node is behind the prompt, int64 [nodes]."""
        return torch.tensor([len(path) for path in self.nodes], dtype=torch.int64)

    def seen(self) -> Tensor:
        """Which of the appended tokens each of them sees: those on its own path, bool [nodes, nodes]."""
        count = len(self.nodes)
        sees = [[path[: len(other)] == other for other in self.nodes] for path in self.nodes]
        return torch.tensor(sees, dtype=torch.bool).reshape(count, count)

    def scores(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the labels: [..., positions, tokens] → [..., labels]."""
        children, _ = self._on(logits.device)
        return self.path_sums(logits.masked_fill(~children, -torch.inf).log_softmax(dim=-1))

    def path_sums(self, values: Tensor) -> Tensor:
        """The sum of the values on each label's path: [..., positions, tokens] → [..., labels]."""
        children, on_path = self._on(values.device)
        return values.masked_fill(~children, 0).flatten(-2) @ on_path.to(values.dtype).T

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which tokens are a node's children, bool [positions, tokens]; which of those are on a label's path, float
        [labels, positions × tokens]."""
        if device not in self._weights:
            node = {(): 0, **{path: number for number, path in enumerate(self.nodes, start=1)}}
            token = {token: number for number, token in enumerate(self.tokens)}
            on_path = torch.zeros(len(self.paths), self.positions, len(self.tokens))
            for label, path in enumerate(self.paths):
                for length, step in enumerate(path):
                    on_path[label, node[path[:length]], token[step]] = 1
            self._weights[device] = (on_path.sum(dim=0) > 0).to(device), on_path.flatten(1).to(device)
        return self._weights[device]
