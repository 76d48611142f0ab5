"""Named methods, as data files: one YAML file per preset in this folder. Register, list and get them by name."""

from .registry import MethodField, Preset, PresetRegistry, method, presets

register, unregister, names, get = presets.register, presets.unregister, presets.names, presets.get

__all__ = ["MethodField", "Preset", "PresetRegistry", "get", "method", "names", "presets", "register", "unregister"]
