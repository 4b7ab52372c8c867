"""The names that the tutorial's users type."""

import subprocess
import sys
from typing import Any

import pytest

import nervex.envs
import nervex.envs.common
import nervex.utils

NAMES = {
    nervex.utils: """
        read_config save_config deep_merge_dicts deep_update flatten_dict
        iter_mapping get_data_compressor get_data_decompressor
        lists_to_dicts dicts_to_lists squeeze default_get list_split override error_wrapper SingletonMetaclass
        get_rank get_world_size broadcast allreduce get_group dist_init dist_finalize distributed_mode
        simple_group_split DistModule
        read_file save_file remove_file import_module try_import_ceph try_import_mc try_import_link
        LockContextType LockContext
        build_logger TextLogger TensorBoardLogger DistributionTimeImage pretty_print
        get_ip get_pid get_task_uid PropagatingThread find_free_port EasyTimer build_time_helper
        LoggedModel LoggedValue NaturalTime TickTime TimeProxy Registry LimitedSpaceContainer
    """,
    nervex.envs: "BaseEnv BaseEnvTimestep BaseEnvInfo IEnvElement EnvElement EnvElementRunner EnvElementInfo",
    nervex.envs.common: """
        num_first_one_hot sqrt_one_hot div_one_hot div_func clip_one_hot reorder_one_hot reorder_one_hot_array
        reorder_boolean_vector batch_binary_encode get_postion_vector get_position_vector affine_transform
    """,
}


@pytest.mark.parametrize("package", NAMES, ids=lambda package: package.__name__)
def test_every_name_answers_with_a_docstring(package: Any) -> None:
    for name in NAMES[package].split():
        found = getattr(package, name)
        assert found.__doc__ and name in dir(package), name


def test_the_modules_of_utils_import_no_torch() -> None:
    code = (
        "import importlib, pkgutil, sys, nervex.utils, nervex.envs.common\n"
        "for module in pkgutil.iter_modules(nervex.utils.__path__, 'nervex.utils.'):\n"
        "    importlib.import_module(module.name)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
