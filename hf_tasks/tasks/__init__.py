"""Every task by name. A new task is one new file beside this one: all modules here are imported and searched for tasks.

Folder discovery is safe here because nothing in this folder is ever uploaded as model code.
"""

import importlib
import inspect
import pkgutil
from dataclasses import fields
from typing import Any

from hf_tasks.errors import unknown_name
from hf_tasks.tasks.base import Task


def _gather() -> dict[str, type[Task]]:
    """The tasks defined in the modules of this folder; two of one name are a mistake of ours, not of a user."""
    tasks: dict[str, type[Task]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for _, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, Task) and "name" in vars(value) and value.__module__ == module.__name__:
                if value.name in tasks:
                    raise TypeError(f"two tasks are called {value.name!r}: {tasks[value.name]} and {value}")
                tasks[value.name] = value
    return dict(sorted(tasks.items()))


TASKS: dict[str, type[Task]] = _gather()


def get_task(name: str, **parameters: Any) -> Task:
    """A task by name.

    Args:
        name: a key of `TASKS`.
        parameters: fields of the task's class; lists stand for tuples, as YAML and JSON have none.

    Raises:
        UserError: unknown name or parameter, a value of the wrong type, or parameters that contradict each other.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS, "see `hf-tasks list tasks`")
    known = [field.name for field in fields(TASKS[name])]
    for parameter in parameters:
        if parameter not in known:
            raise unknown_name(f"parameter of {name}", parameter, known)
    return TASKS[name](**parameters)


__all__ = ["TASKS", "Task", "get_task"]
