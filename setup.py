from setuptools import find_packages, setup

setup(name='mmacmix', version='0.1.0', packages=find_packages(include=['mmacmix', 'mmacmix.*']))
