from .neighborhood_attention import available_backends, neighborhood_attention

__all__ = ['available_backends', 'neighborhood_attention']
