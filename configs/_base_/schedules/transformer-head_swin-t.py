# Mask2Former and DINO train their backbone with a tenth of the learning rate. No weight decay for normalisation layers,
# positions, queries and the rates of ACmix's two paths.
backbone = dict(lr_mult=0.1, decay_mult=0.0)
head = dict(lr_mult=1.0, decay_mult=0.0)
blocks = [f'{stage}.{block}' for stage, depth in enumerate((2, 2, 6, 2)) for block in range(depth)]
paramwise_cfg = dict(
    norm_decay_mult=0.0,
    custom_keys={
        'backbone': dict(lr_mult=0.1, decay_mult=1.0),
        'backbone.norm': backbone,
        'backbone.patch_embed.norm': backbone,
        **{f'backbone.stages.{block}.norm': backbone for block in blocks},
        **{f'backbone.downsamples.{stage}.norm': backbone for stage in range(3)},
        'absolute_pos_embed': backbone,
        'relative_position_bias_table': backbone,
        'attention_rate': backbone,
        'conv_rate': backbone,
        'query_embed': head,
        'query_feat': head,
        'level_embed': head,
    },
)
