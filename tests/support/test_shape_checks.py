"""What a signature says of shapes and types is held to it when tests run."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

import mambascope
from mambascope.evaluate.tasks.perturbation import accuracy, logit_of_kept
from mambascope.numbering import existing_layer
from shape_checks import names_a_shape


def test_an_array_of_another_shape_is_refused():
    picture = SimpleNamespace(classes=(0,))
    with pytest.raises(TypeCheckError):
        accuracy(picture, torch.ones(2, 3), True)


def test_inside_another_function_too():
    readout = logit_of_kept(torch.nn.Identity(), torch.ones(3, 4, 4), (2, 2), 0)
    with pytest.raises(TypeCheckError):
        readout(torch.ones(1, 4, 4) > 0)


def test_another_type_is_refused():
    with pytest.raises(BeartypeCallHintViolation):
        existing_layer(0, "two")


def test_every_shape_in_a_signature_is_seen():
    count = 0
    for file in Path(mambascope.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping"]
        arrays = {name.name for node in imported for name in node.names}
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            given = function.args
            parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            annotations = [one.annotation for one in parameters if one and one.annotation]
            annotations += [function.returns] if function.returns else []
            names = {node.id for one in annotations for node in ast.walk(one) if isinstance(node, ast.Name)}
            if names & arrays:
                count += 1
                assert names_a_shape(map(ast.unparse, annotations)), f"{file.name}, line {function.lineno}"
    assert count > 300
