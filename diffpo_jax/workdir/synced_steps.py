"""How orbax' steps survive a power cut: all of a step is on the disk before it has its name.

orbax syncs the arrays alone; every other file of a step may be empty after a power cut.
"""

import asyncio
from typing import Any

from etils import epath
from orbax.checkpoint import path as ocp_path

from diffpo_jax.system import durable

_ATOMIC = ocp_path.atomicity.AtomicRenameTemporaryPath
_SUFFIX = ".unsynced"


class SyncedPath(_ATOMIC):
    """orbax renames a finished step to a name that is not a step's; here it is synced and gets its.

    This is done by one process, in orbax' own thread, while training goes on.
    """

    @classmethod
    def from_final(cls, final_path: epath.Path, **options: Any) -> _ATOMIC:
        temporary = _ATOMIC.from_final(final_path).get()
        if ocp_path.atomicity.TMP_DIR_SUFFIX in final_path.parent.name:
            return _ATOMIC.from_final(final_path, **options)  # a part, synced with its step
        # With the suffix of a temporary directory, so that orbax removes what a kill leaves of it.
        made = cls(temporary, temporary.with_name(temporary.name + _SUFFIX), **options)
        made._step = final_path
        return made

    def get_final(self) -> epath.Path:
        return self._step

    async def finalize(self) -> None:
        await super().finalize()
        unsynced = super().get_final()
        await asyncio.to_thread(durable.sync_tree, unsynced)
        await asyncio.to_thread(durable.rename, unsynced, self._step)
