# No weight decay for the rates of ACmix's two paths, the scales of ACmixNeck, normalisation layers and position terms.
paramwise_cfg = dict(
    norm_decay_mult=0.0,
    custom_keys=dict(
        attention_rate=dict(decay_mult=0.0),
        conv_rate=dict(decay_mult=0.0),
        residual_scale=dict(decay_mult=0.0),
        position=dict(decay_mult=0.0),
        absolute_pos_embed=dict(decay_mult=0.0),
    ),
)
