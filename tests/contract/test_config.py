import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtops.contract import config
from rdtops.errors import ConfigError


def test_the_preset_of_the_seed_has_the_seed_s_values():
    train = config.preset("libero_single_task")
    assert (train.num_processes, train.batch_size_per_process, train.global_batch_size) == (8, 4, 32)
    assert (train.max_steps, train.checkpoint_every_steps, train.checkpoints_total_limit) == (30_000, 2_000, 20)
    assert (train.learning_rate, train.lr_schedule, train.mixed_precision) == (1e-4, "constant", "bf16")
    assert (train.loader_workers, train.image_augmentation, train.state_noise_snr_db) == (8, True, 40.0)


def test_the_presets_of_the_published_models_have_their_authors_values():
    train = config.preset("rdt_1b")
    assert (train.model, train.batch_size_per_process, train.max_steps) == ("rdt-1b", 32, 200_000)
    assert (train.checkpoint_every_steps, train.checkpoints_total_limit, train.sample_every_steps) == (1000, 40, 500)
    assert (train.learning_rate, train.lr_schedule, train.mixed_precision) == (1e-4, "constant", "bf16")
    small = config.preset("rdt_170m")
    assert {**small.to_json(), "preset": "rdt_1b", "model": "rdt-1b", "pretrained": "rdt-1b"} == train.to_json()


@pytest.mark.parametrize("name", config.PRESETS)
def test_every_value_of_a_preset_can_be_set_and_not_to_nonsense(name):
    preset = config.checked(config.preset(name))
    for key, value in preset.to_json().items():
        if key == "preset":
            continue
        assert config.override(preset, [f"{key}={value}"]) == preset
        if not isinstance(value, str):
            with pytest.raises(ConfigError, match=key):
                config.override(preset, [f"{key}=seven"])


def test_every_preset_survives_json():
    for name in config.PRESETS:
        train = config.preset(name)
        assert config.TrainConfig.from_json(train.to_json()) == train


def test_a_resume_takes_the_values_of_the_run_and_accepts_only_what_it_names_itself():
    run = config.override(config.preset("tiny"), ["dataset=drawer", "max_steps=7", "accept_changed=vision_encoder"])
    assert config.resumed(run, []) == config.override(run, ["accept_changed="])
    told = config.resumed(run, ["dataset=drawer", "text_encoder = t5", "learning_rate=1"])
    assert (told.dataset, told.max_steps, told.accept_changed) == ("drawer", 7, "dataset,text_encoder")
    told = config.resumed(run, ["accept_changed=vision_encoder", "without=x.hdf5"])
    assert told.accept_changed == "vision_encoder,dataset"
    assert config.resumed(run, ["pretrained=other"]).accept_changed == ""  # a resume does not read them


def test_what_a_resume_accepts_is_no_part_of_what_is_trained():
    train = config.preset("tiny")
    assert config.override(train, ["accept_changed=dataset"]).digest == train.digest
    assert config.override(train, ["dataset=drawer"]).digest != train.digest
    with pytest.raises(ConfigError, match="accept_changed: there is no role 'datasets'; did you mean 'dataset'"):
        config.override(train, ["accept_changed=datasets"])


def test_settings_are_read_as_the_type_of_their_field():
    train = config.override(config.preset("tiny"), [
        "max_steps=1_000", "learning_rate=3e-4", "image_augmentation=false", "state_noise_snr_db=none", "model=tiny"])
    assert (train.max_steps, train.learning_rate, train.image_augmentation) == (1000, 3e-4, False)
    assert train.state_noise_snr_db is None
    for text, value in {"auto": "auto", "true": True, "no": False, "AUTO": "auto"}.items():
        made = config.override(train, [f"gradient_checkpointing={text}"]).gradient_checkpointing
        assert (type(made), made) == (type(value), value)


@pytest.mark.parametrize(("setting", "words"), [
    ("maxsteps=3", "did you mean 'max_steps'"),
    ("max_steps=ten", "'ten' is not an integer"),
    ("max_steps=1.5", "'1.5' is not an integer"),
    ("image_augmentation=maybe", "not true or false"),
    ("device=tpu", "one of cuda, cpu"),
    ("learning_rate=nan", "not a number"),
    ("learning_rate=0", "must be above 0"),
    ("warmup_steps=-1", "must not be negative"),
    ("condition_dropout=1.5", "must be at least 0 and below 1"),
    ("heldout_share=0.6", "from 0 to 0.5"),
    ("heldout_share=-0.1", "from 0 to 0.5"),
    ("checkpoints_keep_best=0", "must be above 0"),
    ("checkpoints_keep_every_steps=-1", "must not be negative"),
    ("tracker=wandbb", "one of off, tensorboard, wandb"),
    ("wandb_mode=maybe", "one of online, offline"),
    ("noise_draws_per_sample=0", "must be above 0"),
    ("vision_cache_gib=-1", "must not be negative"),
    ("gradient_checkpointing=seven", "'seven' is not one of true, false, auto"),
    ("max_steps", "is not key=value"),
    ("preset=other", "no such setting"),
])
def test_a_wrong_setting_is_refused_with_its_name(setting, words):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]) as caught:
        config.override(config.preset("tiny"), [setting])
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        config.preset("tinny")


@given(st.text(max_size=30))
def test_no_setting_whatever_it_is_raises_anything_but_our_error(text):
    try:
        config.override(config.preset("tiny"), [text, f"max_steps={text}"])
    except ConfigError:
        return


def test_the_digest_tells_two_configurations_apart():
    tiny = config.preset("tiny")
    assert tiny.digest == config.preset("tiny").digest
    assert tiny.digest != config.override(tiny, ["seed=43"]).digest
